"""Runs on the real task, made small: same bytes whatever happens, and nothing lost or half-written."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

import shapo
from shapo.advantages import NonFiniteError
from shapo.store import CorruptCheckpointError, load_checkpoint, save_checkpoint
from shapo.training import Trainer, one_thread

SMALL = shapo.Config(
    actor=shapo.FisherSAM(0.001), critic=shapo.EuclideanSAM(0.05), total_steps=6_400, steps_per_epoch=400, num_envs=4,
    minibatch_size=64, hidden_sizes=(16, 16), seed=1,
)  # fmt: skip

CHILD = """
import sys, torch
torch.set_num_threads({threads})
sys.path.insert(0, {tests!r})
from test_training import SMALL
import shapo
print("ready", flush=True)
shapo.train(SMALL, runs={runs!r}, progress=False)
"""


def child(runs, threads=1):
    code = CHILD.format(tests=os.path.dirname(__file__), runs=str(runs), threads=threads)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run of SMALL."""
    return shapo.train(SMALL, runs=tmp_path_factory.mktemp("reference"), progress=False)


def assert_same_run(run, reference):
    for name in ("progress.csv", "episodes.csv"):
        assert (run.path / name).read_bytes() == (reference.path / name).read_bytes()
    (ours, meta), (theirs, other) = run.load(), reference.load()
    assert ours.keys() == theirs.keys()
    for key in ours:
        if not key.startswith("timing:"):
            assert ours[key].tobytes() == theirs[key].tobytes(), key
    for key in ("epoch", "totals", "algorithm", "action_rng", "minibatch_rng"):
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


def test_parallel_runs_are_the_serial_ones(tmp_path, reference):
    study = shapo.Study("pair", [SMALL, replace(SMALL, seed=2), SMALL], runs=tmp_path).run(progress=False)
    assert len(study.runs) == 2 and all(run.finished for run in study.runs)
    assert_same_run(study.runs[0], reference)
    assert set(study.progress.run) == {0, 1} and len(study.progress) == 2 * SMALL.epochs
    assert not study.runs[1].progress.equals(study.runs[0].progress)


def test_a_finished_run_returns_without_training(reference, monkeypatch):
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: pytest.fail("trained again"))
    before = reference.checkpoint.stat().st_mtime_ns
    again = shapo.train(SMALL, runs=reference.path.parent.parent, progress=False)
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


def test_two_processes_share_a_run_by_taking_turns(tmp_path, reference, capfd):
    first = child(tmp_path)
    run = shapo.Run(SMALL, tmp_path)
    while not run.exists:
        assert first.poll() is None
        time.sleep(0.01)
    mine = threading.Thread(target=shapo.train, args=(SMALL,), kwargs={"runs": tmp_path, "progress": False})
    mine.start()
    mine.join()
    assert first.wait() == 0, first.stderr.read()
    assert "Another process is training" in capfd.readouterr().err
    assert_same_run(run, reference)


@dataclass(frozen=True)
class BreaksLater:
    """A perturbation that goes wrong at its third update."""

    def __call__(self, gradient, fisher, samples):
        return gradient * (torch.nan if samples > 800 else 0.0)


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    config = replace(SMALL, actor=BreaksLater())
    with pytest.raises(
        NonFiniteError, match=r"gradient.*became non-finite, in epoch 3 \(800 steps done\).*last good"
    ):
        shapo.train(config, runs=tmp_path, progress=False)
    run = shapo.Run(config, tmp_path)
    assert run.epoch == 2 and np.isfinite(run.load()[0]["actor/theta"]).all()
    with pytest.raises(shapo.studies.StudyError, match="1 of the study's runs failed") as error:
        shapo.Study("mixed", [config, SMALL], runs=tmp_path).run(progress=False)
    assert "became non-finite" in str(error.value)
    assert shapo.Run(SMALL, tmp_path).finished


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_progress_shows_what_matters(tmp_path, capsys):
    shapo.train(replace(SMALL, total_steps=800), runs=tmp_path)
    shown = capsys.readouterr().out
    for word in ("PIDLag PointGoal1-v0 seed 1", "2/2", "return=", "cost=", "λ=", "KL=", "steps/s="):
        assert word in shown
