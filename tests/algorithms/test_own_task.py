"""Training on tasks of the user's: named, resumed to the same bytes, in studies, packs and tables."""

from dataclasses import dataclass, replace
from functools import partial

import gymnasium
import numpy as np
import pandas as pd
import pytest

import shapo
from shapo.algorithms.trainer import Trainer
from shapo.experiments import safety
from shapo.runs.identity import config_from, describe
from shapo.runs.packing import pack

HOPPER = shapo.OwnTask("Hopper-v4", cost_limit=1, cost="termination", max_episode_steps=50)
SMALL = shapo.Config(
    HOPPER, "TRPOLag", shapo.FisherSAM(0.001), total_steps=1200, steps_per_epoch=200, num_envs=4, minibatch_size=64,
    hidden_sizes=(8,), seed=1, critic_passes=1,
)  # fmt: skip


def swinging(limit):
    return shapo.OwnTask(
        lambda: gymnasium.make("Pendulum-v1"), cost_limit=2, cost=lambda info: float(limit), max_episode_steps=50,
        label="swing",
    )  # fmt: skip


def push(cost_limit):
    return shapo.OwnTask("SafetyPointPush1-v0", cost_limit=cost_limit, max_episode_steps=50)


def assert_same_bytes(run, reference):
    for name in ("progress.csv", "episodes.csv"):
        assert (run.path / name).read_bytes() == (reference.path / name).read_bytes()
    (ours, meta), (theirs, other) = run.load(), reference.load()
    assert ours.keys() == theirs.keys() and meta["action_rng"] == other["action_rng"]
    for key in ours:
        assert key.startswith("timing:") or ours[key].tobytes() == theirs[key].tobytes(), key


@pytest.mark.parametrize(
    "config",
    [
        SMALL, replace(SMALL, algorithm="SauteRL"), replace(SMALL, task=swinging(1), actor=None),
        replace(SMALL, task=push(10), total_steps=600), replace(SMALL, task="SafetyHopperVelocity-v1", num_envs=1,
            steps_per_epoch=1000, total_steps=3000),
    ],
    ids=["gymnasium", "Sauté", "factory", "PointPush1", "HopperVelocity"],
)  # fmt: skip
def test_interrupted_runs_end_with_the_same_bytes(tmp_path, monkeypatch, config):
    reference = shapo.train(config, runs=tmp_path / "reference", progress=False)
    assert len(reference.progress) == config.epochs and reference.progress.J_C.notna().all()
    epoch = Trainer.run_epoch

    def interrupted(trainer):
        row = epoch(trainer)  # the epoch is computed, and lost
        if interruptions and trainer.epoch == interruptions[0]:
            raise interruptions.pop(0) and KeyboardInterrupt
        return row

    interruptions = [1, 2, 2, config.epochs]
    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    while interruptions:
        with pytest.raises(KeyboardInterrupt):
            shapo.train(config, runs=tmp_path / "torn", progress=False)
    assert_same_bytes(shapo.train(config, runs=tmp_path / "torn", progress=False), reference)


def test_episodes_are_whole_and_begin_anew_with_each_epoch(tmp_path):
    """Fifty steps each at most, never across an epoch's end; the epochs' first states differ."""
    trainer = Trainer(replace(SMALL, task=swinging(1)))
    begun = []
    reset = trainer.env.reset
    trainer.env.reset = lambda seed: begun.append(seed) or reset(seed=seed)
    for _ in range(3):
        trainer.run_epoch()
    assert len(set(begun)) == 3
    episodes = pd.DataFrame(trainer.episodes)
    assert (episodes.length == 50).all() and (episodes.cost == 50).all() and not episodes.failed.any()
    assert episodes.steps.tolist() == [200] * 4 + [400] * 4 + [600] * 4


def test_falls_are_costs_and_failures(tmp_path):
    run = shapo.train(SMALL, runs=tmp_path, progress=False)
    assert run.path.parent.name == "Hopper-v4"
    assert run.episodes.failed.sum() == run.episodes.cost.sum() == run.progress.failures.iloc[-1] > 5
    assert run.actor(np.zeros((1, 11))).shape == (1, 3)


@dataclass(frozen=True)
class Nothing:
    def __call__(self, gradient, fisher, samples):
        return None


@pytest.mark.parametrize("algorithm", ["TRPOLag", "SauteRL"])
def test_environments_are_closed_however_training_ends(tmp_path, monkeypatch, algorithm):
    opened, make = [], shapo.OwnTask.make

    def watched(task):
        env = make(task)
        opened.append(env)
        env.close = lambda: opened.remove(env)
        return env

    def refuse(row):
        raise LookupError(f"{len(opened)} are open")

    def interrupted(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapo.OwnTask, "make", watched)
    config = replace(SMALL, task=swinging(1), algorithm=algorithm, actor=None, total_steps=400)
    with pytest.raises(LookupError, match="4 are open") as refused:
        shapo.train(config, runs=tmp_path, progress=False, callback=refuse)
    assert not opened and refused.tb  # which keeps the frames of training alive
    with pytest.raises(TypeError, match="Nothing") as refused:
        shapo.train(replace(config, actor=Nothing()), runs=tmp_path, progress=False)
    assert not opened and refused.tb
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run_epoch", interrupted)
        shapo.train(config, runs=tmp_path, progress=False)
    assert not opened and shapo.train(config, runs=tmp_path, progress=False).finished and not opened


def test_an_epoch_must_hold_whole_episodes():
    with pytest.raises(
        ValueError,
        match=r"steps_per_epoch must be at least 20000, whole episodes of num_envs = 20 .*got 2000",
    ):
        shapo.Config("SafetyPointPush1-v0", steps_per_epoch=2000)


def test_the_task_s_numbers_are_its_own():
    config = shapo.Config(push(3), "SauteRL")
    assert config.cost_limit is None and config.resolved.cost_limit == 3
    assert (
        config.resolved.algorithm.target_kl == pytest.approx(0.02)
        and config.resolved.algorithm.saute_gamma == 0.999
    )
    assert replace(config, task=push(4)).resolved.cost_limit == 4
    assert shapo.Config("SafetyPointPush1-v0").resolved.cost_limit == 10
    with pytest.raises(ValueError, match=r"cost_limit must be positive for SauteRL.*Hopper-v4"):
        shapo.Config(replace(HOPPER, cost_limit=0), "SauteRL")


def test_a_run_is_named_by_its_task():
    tasks = [HOPPER, replace(HOPPER, cost_limit=2), push(1), "SafetyPointPush1-v0", swinging(1), swinging(2)]
    names = [replace(SMALL, task=task, steps_per_epoch=4000, total_steps=4000).run_id for task in tasks]
    assert len(set(names)) == len(tasks)
    assert replace(SMALL, task=swinging(1)).run_id == replace(SMALL, task=swinging(1)).run_id

    def task(cost):
        return replace(SMALL, task=replace(HOPPER, cost=cost)).run_id

    assert task(lambda info: 1.0) == task(lambda info: 1.0) != task(lambda info: 2.0)
    for cost in (np.sum, partial(max, 1.0), len):
        with pytest.raises(TypeError, match=r"^task\.cost must be a plain, finite value, a function"):
            replace(SMALL, task=replace(HOPPER, cost=cost))


def test_descriptions_give_the_config_back():
    for task in (HOPPER, push(3), "SafetyHopperVelocity-v1"):
        config = replace(SMALL, task=task, steps_per_epoch=4000, total_steps=4000)
        again = config_from(describe(config.resolved))
        assert again == config.resolved and again.run_id == config.run_id
    with pytest.raises(ValueError, match="not the package's own"):
        config_from(describe(replace(SMALL, task=swinging(1)).resolved))


def test_own_tasks_join_studies_packs_and_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "data"))
    tasks = [HOPPER, swinging(1)]
    cells = safety.grid(
        "smoke", tasks, ["TRPOLag"], lambda task: {"vanilla": {}}, seeds=[0], total_steps=2000
    )
    configs = [config for cell in cells.values() for config in cell]
    shapo.train(configs[0], progress=False)
    study = shapo.Study("own", configs)
    study.run()  # of the function, in another process
    assert set(study.status().task) == {"Hopper-v4", "swing"}
    table = safety.results(cells)
    assert len(table) == 2 and table.cost_rate.notna().all()
    assert [safety.safety_metric(task) for task in tasks] == ["cost_rate"] * 2
    assert table.task.map(str).tolist() == ["Hopper-v4", "swing"]
    pack(study)
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path / "elsewhere"))
    for config in configs:
        assert shapo.Run(config).pack.name == "own" and len(shapo.Run(config).progress) == 1
