"""Runs on the real task, made small: same bytes whatever happens, and nothing lost or half-written."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import shapo
from shapo.__main__ import main
from shapo.algorithms.advantages import Rollout
from shapo.algorithms.trainer import Trainer
from shapo.checks import NonFiniteError
from shapo.runs.store import CorruptCheckpointError, load_checkpoint, save_checkpoint
from shapo.runs.switches import flushing_subnormals, plain_torch
from shapo.runs.train import one_thread


def heat(info):
    return 0.25


SMALL = shapo.Config(
    actor=shapo.FisherSAM(0.001), critic=shapo.EuclideanSAM(0.05), total_steps=12_000, steps_per_epoch=400, num_envs=4,
    minibatch_size=64, hidden_sizes=(16, 16), seed=1,
)  # fmt: skip

# A task of the user's, whose environments save nothing
OWN = replace(
    SMALL, task=shapo.OwnTask("Pendulum-v1", cost_limit=5, cost=heat), total_steps=16_000, steps_per_epoch=800
)

CHILD = """
import sys, torch
torch.set_num_threads({threads})
sys.path.insert(0, {tests!r})
from test_train import {name}
import shapo
print("ready", flush=True)
shapo.train({name}, runs={runs!r}, progress=False)
"""


def child(runs, threads=1, name="SMALL"):
    code = CHILD.format(tests=os.path.dirname(__file__), runs=str(runs), threads=threads, name=name)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run of SMALL."""
    return shapo.train(SMALL, runs=tmp_path_factory.mktemp("reference"), progress=False)


def test_a_killed_run_on_a_task_of_the_users_ends_with_the_same_bytes(tmp_path):
    run, kills = shapo.Run(OWN, tmp_path / "killed"), 0
    while kills < 2:
        process, begun = child(run.folder, name="OWN"), run.epoch
        while run.epoch < begun + 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
    assert 0 < run.epoch < OWN.epochs
    process = child(run.folder, name="OWN")
    assert process.wait() == 0, process.stderr.read()
    assert_same_run(run, shapo.train(OWN, runs=tmp_path / "whole", progress=False))


def assert_same_run(run, reference):
    for name in ("progress.csv", "episodes.csv"):
        assert (run.path / name).read_bytes() == (reference.path / name).read_bytes()
    (ours, meta), (theirs, other) = run.load(), reference.load()
    assert ours.keys() == theirs.keys()
    for key in ours:
        if not key.startswith("timing:"):
            assert ours[key].tobytes() == theirs[key].tobytes(), key
    for key in meta.keys() - {"provenance"}:
        assert meta[key] == other[key]


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, reference):
    moments, kills, epochs_seen = random.Random(0), 0, set()
    run = shapo.Run(SMALL, tmp_path)
    while kills < 10:
        process = child(tmp_path)
        assert process.stdout.readline() == "ready\n"
        begun = run.checkpoint.stat().st_mtime_ns if run.exists else 0
        while (
            kills
            and (run.checkpoint.stat().st_mtime_ns if run.exists else 0) == begun
            and process.poll() is None
        ):
            time.sleep(
                0.001
            )  # an epoch goes by, then anything may be under way: a rollout, an update, a write
        time.sleep(moments.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        epochs_seen.add(run.epoch)
        assert run.epoch < SMALL.epochs, "the run is too short to be killed ten times"
    assert len(epochs_seen) >= 8
    process = child(tmp_path)
    assert process.wait() == 0, process.stderr.read()
    assert_same_run(run, reference)
    assert not list(run.path.glob(".*.tmp"))


def test_threads_of_the_process_do_not_matter(tmp_path, reference):
    process = child(tmp_path, threads=2)
    assert process.wait() == 0, process.stderr.read()
    assert_same_run(shapo.Run(SMALL, tmp_path), reference)


def test_a_run_interrupted_again_and_again_ends_with_the_same_bytes(tmp_path, reference, monkeypatch):
    epochs = Trainer.run_epoch

    def interrupted(trainer):
        row = epochs(trainer)  # the epoch is computed, and lost
        if interruptions and trainer.epoch == interruptions[0]:
            raise interruptions.pop(0) and KeyboardInterrupt
        assert torch.get_num_threads() == 1
        return row

    interruptions = [1, 3, 4, 4, 7]
    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    while interruptions:
        with pytest.raises(KeyboardInterrupt):
            shapo.train(SMALL, runs=tmp_path, progress=False)
    assert_same_run(shapo.train(SMALL, runs=tmp_path, progress=False), reference)


OTHER = {
    "seed": 2, "cost_limit": 25.0, "gamma": 0.9, "cost_gamma": 0.9, "gae_lambda": 0.8, "cost_gae_lambda": 0.8,
    "critic_lr": 1e-4, "critic_l2": 0.1, "critic_passes": 5, "minibatch_size": 32, "max_grad_norm": 0.01,
    "hidden_sizes": (8,), "num_envs": 2, "critic": None, "actor": None, "algorithm": shapo.PIDLag(target_kl=0.01),
}  # fmt: skip


@pytest.mark.parametrize("field", OTHER)
def test_every_setting_reaches_the_training(tmp_path, field):
    def outcome(config):
        trainer = Trainer(config)
        trainer.episodes = [{"cost": 30.0, "length": 1000}]  # for the multiplier to react to
        with one_thread():
            trainer.run_epoch(), trainer.run_epoch()
        return trainer.actor.theta, trainer.critics.theta, trainer.algorithm_state

    base = replace(SMALL, total_steps=800)
    ours, same, other = outcome(base), outcome(base), outcome(replace(base, **{field: OTHER[field]}))
    assert torch.equal(ours[0], same[0]) and torch.equal(ours[1], same[1])
    equal = [ours[0].shape == other[0].shape and torch.equal(ours[0], other[0]),
             ours[1].shape == other[1].shape and torch.equal(ours[1], other[1]), ours[2] == other[2]]  # fmt: skip
    assert not all(equal)


def test_the_multiplier_sees_the_last_fifty_episodes_and_the_limit():
    trainer = Trainer(replace(SMALL, cost_limit=25.0))
    trainer.episodes = [{"cost": float(cost), "length": 1000} for cost in range(80)]
    row = trainer.run_epoch()
    assert row["J_C"] == np.mean(range(30, 80))
    state = SMALL.algorithm.observe(SMALL.algorithm.initial_state(), row["J_C"], 25.0)
    assert row["lagrangian_multiplier"] == state["lagrangian_multiplier"] > 0


def test_episodes_that_end_by_failure_are_counted():
    trainer = Trainer(SMALL)
    shape = (SMALL.steps_per_epoch // 4, 4)
    terminated, truncated = np.zeros((2, *shape), bool)
    terminated[9, 1] = truncated[19, 2] = True
    rollout = Rollout(
        torch.zeros(*shape, 1), np.zeros((*shape, 2)), np.ones(shape), np.full(shape, 0.5), terminated, truncated,
        torch.zeros(4, 1), {},
    )  # fmt: skip
    trainer.account(rollout)
    assert trainer.episodes == [
        {"steps": 40, "env": 1, "return": 10.0, "cost": 5.0, "length": 10, "failed": True},
        {"steps": 80, "env": 2, "return": 20.0, "cost": 10.0, "length": 20, "failed": False},
    ]
    assert trainer.totals == {"total_cost": 200.0, "failures": 1}
    assert trainer.running[2].tolist() == [100, 90, 80, 100]


def test_non_finite_parameters_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shapo.algorithms.critics.Critics.adam_step", lambda self, gradient: self.theta.fill_(torch.nan)
    )
    with pytest.raises(NonFiniteError, match="parameters of the critics became non-finite, in epoch 1"):
        shapo.train(SMALL, runs=tmp_path, progress=False)


@dataclass(frozen=True)
class Random:
    """A perturbation that draws from PyTorch's generator."""

    def __call__(self, gradient, fisher, samples):
        return 1e-3 * torch.randn_like(gradient)


def test_random_perturbations_leave_the_users_generator_alone():
    thetas = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = Trainer(replace(SMALL, actor=Random()))
        trainer.run_epoch()
        thetas.append(trainer.actor.theta)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*thetas)


def test_a_finished_run_returns_without_training(reference, monkeypatch):
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: pytest.fail("trained again"))
    before = reference.checkpoint.stat().st_mtime_ns
    monkeypatch.setattr(
        "shapo.runs.train._exclusive", lambda run: pytest.fail("a lock, to read")
    )  # a read-only store
    again = shapo.train(SMALL, runs=reference.folder, progress=False)
    assert again.finished and again.checkpoint.stat().st_mtime_ns == before


def test_tables_account_for_every_step_once(tmp_path):
    config = shapo.Config(
        total_steps=4_400, steps_per_epoch=1_100, num_envs=2, hidden_sizes=(8,), minibatch_size=100
    )
    run = shapo.train(config, runs=tmp_path, progress=False)
    progress, episodes = run.progress, run.episodes
    assert list(progress.epoch) == [1, 2, 3, 4] and list(progress.steps) == [1100, 2200, 3300, 4400]
    assert list(progress.episodes) == [
        0,
        2,
        0,
        2,
    ]  # 550 steps an epoch and env: the episodes of 1000 steps end in 2 and 4
    assert len(episodes) == 4 and (episodes.length == 1000).all() and not episodes.failed.any()
    assert list(episodes.steps) == [2000, 2000, 4000, 4000]
    assert progress.total_cost.is_monotonic_increasing and progress.total_cost.iloc[-1] >= episodes.cost.sum()
    np.testing.assert_allclose(progress.cost_rate, progress.total_cost / progress.steps)
    assert np.isnan(progress.J_C[0]) and progress.J_C[3] == pytest.approx(episodes.cost.mean())
    assert progress.lagrangian_multiplier[0] == 0.001  # nothing to react to before an episode has ended
    assert pd.read_csv(run.path / "progress.csv").equals(progress)
    assert set(run.provenance[0]["versions"]) >= {"torch", "mujoco", "numpy", "python"}


def test_the_trained_policy_rolls_out(reference):
    env = shapo.make_env(SMALL.task, num_envs=3, seed=5)
    obs, _ = env.reset()
    action = reference.actor(obs)
    assert action.shape == (3, 2) and np.isfinite(env.step(action)[0]).all()
    sampled = reference.actor(obs, np.random.default_rng(0))
    assert not np.array_equal(sampled, action)
    assert np.array_equal(sampled, reference.actor(obs, np.random.default_rng(0)))
    trainer = Trainer(SMALL)
    trainer.restore(*reference.load())
    assert torch.equal(trainer.actor.theta, reference.actor.actor.theta)


def damaged(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    if how == "edited":
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return b"PK\x03\x04 something else"


@pytest.mark.parametrize("how", ["truncated", "empty", "edited", "foreign"])
def test_a_damaged_checkpoint_is_named_and_never_loaded(tmp_path, reference, how):
    run = shapo.Run(SMALL, tmp_path)
    run.path.mkdir(parents=True)
    bad = damaged(reference.checkpoint.read_bytes(), how)
    run.checkpoint.write_bytes(bad)
    with pytest.raises(CorruptCheckpointError, match="checkpoint was not loaded") as error:
        shapo.train(SMALL, runs=tmp_path, progress=False)
    assert str(run.checkpoint) in str(error.value)
    assert run.checkpoint.read_bytes() == bad


def test_another_runs_checkpoint_is_never_loaded(tmp_path, reference):
    run = shapo.Run(replace(SMALL, seed=9), tmp_path)
    run.path.mkdir(parents=True)
    run.checkpoint.write_bytes(reference.checkpoint.read_bytes())
    with pytest.raises(CorruptCheckpointError, match="belongs to another run"):
        shapo.train(run.config, runs=tmp_path, progress=False)


def test_checkpoints_hold_no_pickle_and_survive_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {"a": np.arange(3)}, {"x": 0.1})
    with pytest.raises(ValueError):
        save_checkpoint(path, {"a": np.array([object()])}, {})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"a": np.zeros(3)}, {})
    arrays, meta = load_checkpoint(path)
    assert arrays["a"].tolist() == [0, 1, 2] and meta == {"x": 0.1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_leftovers_and_provenance(tmp_path, monkeypatch):
    config = replace(SMALL, total_steps=800)
    run = shapo.Run(config, tmp_path)
    run.path.mkdir(parents=True)
    (run.path / ".checkpoint.0123.tmp").write_bytes(b"half a checkpoint")
    here = {"commit": "first"}
    monkeypatch.setattr("shapo.runs.run.provenance", lambda: dict(here))
    epochs = Trainer.run_epoch
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: epochs(self) if not self.epoch else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shapo.train(config, runs=tmp_path, progress=False)
    here["commit"] = "second"
    monkeypatch.setattr(Trainer, "run_epoch", epochs)
    shapo.train(config, runs=tmp_path, progress=False)
    assert run.provenance == [{"commit": "first"}, {"commit": "second"}]
    assert not list(run.path.glob(".*.tmp"))


def test_a_store_that_cannot_be_written_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: pytest.fail("worked first"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        shapo.train(SMALL, runs=tmp_path, progress=False)


def test_two_processes_share_a_run_by_taking_turns(tmp_path, reference, capfd):
    first = child(tmp_path)
    run = shapo.Run(SMALL, tmp_path)
    while not run.exists:
        assert first.poll() is None
        time.sleep(0.01)
    shapo.train(SMALL, runs=tmp_path, progress=False)
    assert first.wait() == 0, first.stderr.read()
    assert "Another process is training" in capfd.readouterr().err
    assert_same_run(run, reference)


@dataclass(frozen=True)
class BreaksLater:
    """A perturbation that goes wrong at its third update."""

    def __call__(self, gradient, fisher, samples):
        return gradient * (torch.nan if samples.steps > 800 else 0.0)


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    config = replace(SMALL, actor=BreaksLater())
    with pytest.raises(
        NonFiniteError, match=r"ε of BreaksLater became non-finite, in epoch 3 \(800 steps done\).*last good"
    ):
        shapo.train(config, runs=tmp_path, progress=False)
    run = shapo.Run(config, tmp_path)
    assert run.epoch == 2 and np.isfinite(run.load()[0]["actor/theta"]).all()


def test_epochs_that_are_short_share_a_checkpoint(tmp_path, reference, monkeypatch):
    """At the start, every `checkpoint_seconds`, and at the end; the numbers are the same."""
    clock, saved, save = iter(np.arange(0, 100, 0.5)), [], shapo.Run.save
    monkeypatch.setattr(
        shapo.runs.train,
        "time",
        SimpleNamespace(monotonic=lambda: next(clock), perf_counter=time.perf_counter),
    )
    monkeypatch.setattr(shapo.Config, "checkpoint_seconds", 2.0)
    monkeypatch.setattr(
        shapo.Run, "save", lambda self, *state: saved.append(state[1]["epoch"]) or save(self, *state)
    )
    run = shapo.train(SMALL, runs=tmp_path, progress=False)
    assert saved[0] == 0 and saved[-1] == SMALL.epochs and 5 < len(saved) < SMALL.epochs / 2
    assert_same_run(run, reference)


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_progress_shows_what_matters(tmp_path, capsys):
    shapo.train(replace(SMALL, total_steps=800), runs=tmp_path)
    shown = capsys.readouterr().out
    assert re.search(r" 0/\d+ .*building the environments", shown), "what a bar at 0 waits for"
    for word in ("PIDLag PointGoal1-v0 seed 1", "2/2", "return=", "cost=", "λ=", "KL=", "steps/s="):
        assert word in shown


@contextmanager
def changed(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


SWITCHES = {
    "default dtype": partial(changed, torch.set_default_dtype, torch.float64, torch.float32),
    "default device": partial(changed, torch.set_default_device, "meta", None),
    "device": partial(torch.device, "meta"),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "matmul precision": partial(changed, torch.set_float32_matmul_precision, "medium", "highest"),
    "subnormals": partial(changed, torch.set_flush_denormal, True, False),
} | {
    f"precision of {name}": partial(changed, partial(setattr, part, "fp32_precision"), "tf32", "none")
    for name, part in {"CUDA": torch.backends.cuda.matmul, "all": torch.backends}.items()
}
ROBOTS = {
    "SHAC": shapo.RobotConfig(
        "DiffAnt", shapo.SHAC(horizon=4), shapo.AdaptiveSAM(0.5), iterations=2, num_envs=4
    ),
    "PPO": shapo.RobotConfig(
        "DiffAnt", shapo.PPO(horizon=8, passes=2, minibatches=2), iterations=2, num_envs=4
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Runs of a few epochs, trained as PyTorch begins."""
    configs = ROBOTS | {"safe RL": replace(SMALL, total_steps=1_200)}
    folder = tmp_path_factory.mktemp("plain")
    return {name: shapo.train(config, runs=folder, progress=False) for name, config in configs.items()}


@pytest.mark.parametrize("what", ["safe RL", *ROBOTS])
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_of_the_user_change_no_run(tmp_path, plain, switch, what):
    with SWITCHES[switch]():
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        run = shapo.train(plain[what].config, runs=tmp_path, progress=False)
        after = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    assert after == before, "the user's switches are the user's"
    assert_same_run(run, plain[what])


@pytest.mark.parametrize("mine", [True, False])
def test_what_the_user_does_with_subnormals_stays(mine):
    least = torch.tensor(2e-38)
    with changed(torch.set_flush_denormal, mine, False):
        with plain_torch():
            with flushing_subnormals():
                assert least / 4 == 0
            assert least / 4 > 0
        assert (least / 4 == 0) == mine


@pytest.mark.parametrize("what", ["safe RL", "PPO"])
def test_a_longer_run_goes_on_from_a_shorter_one_to_the_same_bytes(tmp_path, plain, what, monkeypatch):
    whole, config, rows = plain[what], plain[what].config, []
    shorter = {"safe RL": {"total_steps": 800}, "PPO": {"iterations": 1}}[what]
    shapo.train(replace(config, **shorter, seed=9), runs=tmp_path, progress=False)  # not of these settings
    shapo.train(replace(config, **shorter), runs=tmp_path, progress=False, callback=rows.append)
    monkeypatch.setattr("shapo.runs.run.provenance", lambda: {"commit": "later"})
    run = shapo.train(config, runs=tmp_path, progress=False, callback=rows.append)
    assert_same_run(run, whole)
    assert [row["epoch"] for row in rows] == list(range(1, config.epochs + 1)), (
        "it was trained from the start"
    )
    assert pd.DataFrame(rows).to_csv() == run.progress.to_csv()
    assert [past["commit"] for past in run.provenance] == [whole.provenance[0]["commit"], "later"]


def test_shac_whose_rates_decay_over_the_run_begins_anew(tmp_path, plain):
    config = plain["SHAC"].config
    shapo.train(replace(config, iterations=1), runs=tmp_path, progress=False)
    rows = []
    assert_same_run(shapo.train(config, runs=tmp_path, progress=False, callback=rows.append), plain["SHAC"])
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_damaged_shorter_run_is_left_alone(tmp_path, plain):
    config = plain["safe RL"].config
    shorter = shapo.train(replace(config, total_steps=800), runs=tmp_path, progress=False)
    shorter.checkpoint.write_bytes(b"torn")
    assert_same_run(shapo.train(config, runs=tmp_path, progress=False), plain["safe RL"])
    assert shorter.checkpoint.read_bytes() == b"torn"


def test_an_error_of_the_callback_is_no_failure_of_the_run(tmp_path, plain):
    config = plain["safe RL"].config

    def breaks(row):
        row.clear()  # theirs to do with as they like
        raise RuntimeError("the logger is away")

    with pytest.raises(RuntimeError, match="the logger is away"):
        shapo.train(config, runs=tmp_path, progress=False, callback=breaks)
    run = shapo.Run(config, tmp_path)
    assert run.epoch == 1 and not (run.path / "error.json").exists()
    assert_same_run(shapo.train(config, runs=tmp_path, progress=False), plain["safe RL"])


def test_what_is_no_config_or_callback_is_named():
    with pytest.raises(TypeError, match=r"config must be a shapo.Config or a shapo.RobotConfig; got {}"):
        shapo.Run({})
    with pytest.raises(TypeError, match=r"runs must be None or a folder; got 3"):
        shapo.train(SMALL, runs=3)
    with pytest.raises(TypeError, match=r"config must be a shapo.Config or a shapo.RobotConfig; got {}"):
        shapo.train({})
    with pytest.raises(TypeError, match="callback must be None or a function of a row of progress; got 3"):
        shapo.train(SMALL, callback=3)


def test_a_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    trained = []
    monkeypatch.setattr(shapo, "train", lambda config: trained.append(config) or shapo.Run(config))
    main("train --task PointButton1-v0 --algorithm CPO --seed 3 --total-steps 1e6 --delta-down 0.002".split())
    main(["train", "--seed", "1"])
    asked = shapo.Config("PointButton1-v0", "CPO", shapo.FisherSAM(0.002), total_steps=1_000_000, seed=3)
    assert trained == [asked, shapo.Config(seed=1)]
    assert capsys.readouterr().out.splitlines() == [str(shapo.Run(config).path) for config in trained]
    for wrong, said in (
        ("--task Nowhere-v0", "task must be one of"),
        ("--delta-down -1", "delta_down must be"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *wrong.split()])
        assert said in capsys.readouterr().err
    done = subprocess.run([sys.executable, "-m", "shapo", "train", "--help"], capture_output=True, text=True)
    assert "--total-steps" in done.stdout, done.stderr
