"""Rollouts that are kept: complete, made once, and those of the policies they are said to be of."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import shapo
from shapo.experiments import robots
from shapo.robots import SHAC, RobotConfig, robustness
from shapo.robots.env import DifferentiableEnv
from shapo.robots.robustness import rollouts
from shapo.runs.run import provenance
from shapo.runs.shipped import CorruptPackError, data_folder, read_sealed, sealed
from shapo.runs.store import runs_folder

CONFIG = RobotConfig(
    "DiffAnt", SHAC(horizon=4, actor_hidden_sizes=(8,), critic_hidden_sizes=(8,)), iterations=1, num_envs=2
)


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Episodes of 6 steps, in this process."""
    env = DifferentiableEnv("DiffAnt", 3, episode_length=6, gradients=False)
    monkeypatch.setattr(robustness, "_env", lambda task, count: env)
    monkeypatch.setattr(robustness.joblib, "cpu_count", lambda: 1)


@pytest.fixture
def runs(tmp_path):
    configs = {"one": CONFIG, "two": replace(CONFIG, seed=1)}
    return {name: [shapo.train(c, runs=tmp_path / "runs", progress=False)] for name, c in configs.items()}


def test_what_is_kept_is_not_made_again(runs, tmp_path, monkeypatch):
    store, conditions = tmp_path / "data" / "rollouts.parquet", [{"noise": 0.0}, {"friction": 0.1}]
    first = robustness.cached_sweep(runs, conditions, count=3, store=store, progress=False)
    assert first.groupby(["algorithm", "noise", "friction"]).size().tolist() == [3] * 4
    made, rolled_out = [], robustness._rolled_out
    monkeypatch.setattr(robustness, "_rolled_out", lambda *a: made.append(a[1]) or rolled_out(*a))
    again = robustness.cached_sweep(runs, conditions, count=3, store=store, progress=False)
    assert not made
    pd.testing.assert_frame_equal(again, first)
    # {} is the condition of training, under whatever name; another seed and count are other rollouts
    assert len(robustness.cached_sweep(runs, [{}], count=3, store=store, progress=False)) == 6 and not made
    robustness.cached_sweep(runs, [{}, {"noise": 0.5}], count=3, store=store, progress=False)
    assert [[key[2] for key in keys] for keys in made] == [[0.5], [0.5]]
    robustness.cached_sweep(runs, [{}], count=3, seed=1, store=store, progress=False)
    assert len(made) == 4
    assert [path.name for path in store.parent.glob("[!.]*")] == ["rollouts.parquet"]  # and its lock


def test_another_policy_of_a_config_has_rollouts_of_its_own(runs, tmp_path):
    store, run = tmp_path / "rollouts.parquet", runs["one"][0]
    before = robustness.cached_sweep({"one": [run]}, [{}], count=3, store=store, progress=False)
    arrays, meta = run.load()
    meta = {name: value for name, value in meta.items() if name not in ("config", "method", "provenance")}
    run.save(arrays | {"theta": arrays["theta"] + np.float32(0.1)}, meta)
    after = robustness.cached_sweep({"one": [run]}, [{}], count=3, store=store, progress=False)
    assert (after["return"] != before["return"]).all() and len(read_sealed(store)) == 6


def test_what_another_process_added_meanwhile_stays(runs, tmp_path, monkeypatch):
    store, added = tmp_path / "rollouts.parquet", robustness._added

    def others_first(kept, fresh, path):
        monkeypatch.setattr(robustness, "_added", added)
        robustness.cached_sweep({"two": runs["two"]}, [{}], count=3, store=store, progress=False)
        return added(kept, fresh, path)

    monkeypatch.setattr(robustness, "_added", others_first)
    table = robustness.cached_sweep(
        {"one": runs["one"]}, [{}, {"noise": 0.0}], count=3, store=store, progress=False
    )
    assert len(table) == 3 and read_sealed(store).run_id.nunique() == 2


def test_what_a_session_adds_to_the_shipped_rollouts_lies_in_the_run_store(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SHAPO_FIGURES", raising=False)
    shipped, mine = data_folder() / "rollouts.parquet", runs_folder() / "rollouts.parquet"

    def swept(*conditions):
        return robustness.cached_sweep({"one": runs["one"]}, conditions, 3, store=shipped, progress=False)

    monkeypatch.setenv("SHAPO_FIGURES", str(tmp_path))
    first = swept({})
    before = shipped.read_bytes()
    monkeypatch.delenv("SHAPO_FIGURES")
    both = swept({}, {"noise": 0.5})
    assert shipped.read_bytes() == before and read_sealed(mine).noise.tolist() == [0.5] * 3
    assert both[:3].equals(first)
    monkeypatch.setattr(robustness, "_rolled_out", lambda *_: pytest.fail("made again"))
    assert swept({}, {"noise": 0.5}).equals(both)


def test_damaged_rollouts_are_told(tmp_path):
    store, table = tmp_path / "rollouts.parquet", pd.DataFrame({"return": np.ones(9), "run_id": ["a"] * 9})
    whole = sealed(table)
    for place in range(4, len(whole), 41):
        store.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_sealed(store).equals(table)  # a byte that says nothing of the content
        except CorruptPackError as error:
            assert "rollouts.parquet was not read" in str(error)
    table.assign(run_id="b").to_parquet(store)  # of another content than it was sealed with, or not sealed
    with pytest.raises(CorruptPackError, match="its content is not that of its SHA-256"):
        robustness.cached_sweep({}, [], store=store)
    store.write_bytes(sealed(table.assign(run_id="b")))
    assert read_sealed(store).run_id.tolist() == ["b"] * 9 and not table.attrs


def test_threads_that_roll_out_wait_for_each_other(runs, monkeypatch):
    """They share an environment, in which one would go on from where another is."""
    policy, inside = runs["one"][0].actor, []

    def watched(observation):
        inside.append(1)
        time.sleep(0.01)
        assert len(inside) == 1
        return inside.pop() and policy(observation)

    with ThreadPoolExecutor(2) as pool:
        tables = pool.map(lambda _: rollouts(watched, "DiffAnt", 3), range(2))
        assert all(table.equals(rollouts(policy, "DiffAnt", 3)) for table in tables)


def test_rollouts_are_of_their_policy_and_condition(runs, tmp_path):
    table = robustness.cached_sweep(runs, [{"noise": 0.5, "damping": 10.0}], count=3, progress=False)
    for name, (run,) in runs.items():
        expected = rollouts(run.actor, "DiffAnt", 3, {"noise": 0.5, "damping": 10.0})
        found = table[table.algorithm == name]
        np.testing.assert_allclose(found["return"], expected["return"], rtol=1e-6)
        assert (
            (found.damping == 10).all() and (found.stiffness == 4e4).all() and (found.friction == 0.75).all()
        )


def test_runs_that_are_not_there_are_left_out(runs, tmp_path):
    absent = {"three": [shapo.Run(RobotConfig(seed=9), tmp_path / "runs")]}
    found = robustness.cached_sweep(runs | absent, [{}], count=3, progress=False)
    assert set(found.algorithm) == {"one", "two"}
    assert robustness.cached_sweep(absent, [{}], count=3, progress=False).empty


def test_a_sweep_is_every_policy_under_every_condition(runs, capsys):
    several = {"SHAC": runs["one"] * 2, "PPO": runs["two"]}
    table = robustness.cached_sweep(several, [{"noise": 0.0}, {"noise": 0.5}], count=3)
    groups = table.groupby(["algorithm", "noise"])["return"].apply(list)
    assert groups.map(len).to_dict() == {("PPO", 0.0): 3, ("PPO", 0.5): 3, ("SHAC", 0.0): 6, ("SHAC", 0.5): 6}
    assert groups["SHAC", 0.5][:3] == groups["SHAC", 0.5][3:] != groups["SHAC", 0.0][:3]
    first, *_ = (line for line in capsys.readouterr().out.splitlines() if "SHAC" in line)
    assert "0/" in first and "SHAC, seed 0" in first  # a bar that stands at 0 says what it waits for


def test_the_figures_conditions_contain_those_of_training():
    assert len(robustness.ground("DiffAnt")) == 25
    assert {"stiffness": 4e4, "damping": 1e4} in robustness.ground("DiffAnt")
    assert {"noise": 0.0} in robustness.action_noise() and {"friction": 0.75} in robustness.friction()


def test_shipped_rollouts_come_back(monkeypatch):
    """A policy and condition of those in figures/data, rolled out again: to the last bit on the same machine."""
    monkeypatch.undo()  # whole episodes
    shipped = read_sealed(data_folder() / "rollouts.parquet")
    ours = {run.config.run_id: run for run in robots.study("robots", "laptop").runs}
    assert set(shipped.run_id) <= set(ours) and shipped.provenance.notna().all()
    chosen = shipped[(shipped.noise == 0.2) & (shipped["count"] == 100)].groupby("run_id", sort=True)
    run_id, kept = next(iter(chosen))
    again = rollouts(ours[run_id].actor, ours[run_id].config.task, 100, {"noise": 0.2})
    recorded = json.loads(kept.provenance.iloc[0])
    if all(recorded[name] == provenance()[name] for name in ("machine", "versions")):
        np.testing.assert_array_equal(kept["return"], again["return"].astype(np.float32))
        np.testing.assert_array_equal(kept.length, again.length)
    else:  # a last bit grows over an episode
        error = np.hypot(kept["return"].sem(), again["return"].sem())
        assert abs(kept["return"].mean() - again["return"].mean()) < 4 * error
