"""The benchmarks measure, skip what is absent, and compare correctly. No test looks at a speed."""

import math
from types import SimpleNamespace

import gymnasium
import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
from matplotlib.figure import Figure

from shapo import figures
from shapo import peers as benchmarks
from shapo.envs import TASKS
from shapo.peers import measuring
from shapo.peers.stepping import ASYNC, run_env
from shapo.runs.store import ROOT


def rows(benchmark, quantity, sides, task="PointGoal1-v0"):
    """Measurements made up for a test: side -> its values in order of the repeats."""
    found = [(side, repeat, value) for side, values in sides.items() for repeat, value in enumerate(values)]
    table = pd.DataFrame(found, columns=["side", "repeat", "value"])
    return table.assign(benchmark=benchmark, task=task, quantity=quantity, unit="s", note="")[
        benchmarks.COLUMNS
    ]


def compared(title, measurements):
    table = benchmarks.compare(measurements).set_index("comparison")
    return table.loc[title]


@pytest.fixture(scope="module")
def measured():
    """Every benchmark for real, as small as it goes; the optional peers left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "is_installed", lambda peer: False)
        parts = [
            benchmarks.environments(1, steps=5, resets=1, num_envs=2, their_envs=2),
            benchmarks.environments(1, 5, 1, 2, their_envs=2, task="PointButton1-v0", peers=[ASYNC]),
            benchmarks.locomotion(1, steps=5, task="Ant-v4", num_envs=2),
            benchmarks.locomotion(1, steps=5, task="Walker2d-v4", num_envs=2),
            benchmarks.physics(1, steps=5, num_envs=2),
            benchmarks.memory(1, num_envs=1),
            benchmarks.training(1, epochs=1, steps_per_epoch=200),
            benchmarks.study(1, epochs=1, steps_per_epoch=200),
            benchmarks.epochs(2, steps_per_epoch=200),
            benchmarks.pieces(1, samples=256),
            benchmarks.gradients(1, "DiffAnt", envs=2, horizon=2),
            benchmarks.robots(1, "DiffAnt", envs=2, horizon=2, iterations=1),
        ]
        _, settings = benchmarks.best_omnisafe_setting(200)
    return pd.concat([*parts, settings], ignore_index=True)


ABSENT = {"OmniSafe", "EnvPool, one thread", "EnvPool, two threads"}


def test_measurements_are_tidy_finite_and_positive(measured):
    assert list(measured.columns) == benchmarks.COLUMNS
    skipped = measured["note"].str.startswith("skipped")
    assert set(measured.loc[skipped, "side"]) == ABSENT
    values = measured.loc[~skipped & (measured["benchmark"] != "memory"), "value"]
    assert np.isfinite(values).all() and (values > 0).all()
    assert not measured.duplicated(["benchmark", "task", "quantity", "side", "repeat"]).any()
    assert (measured["unit"] != "").all()


def test_every_comparison_is_measured_by_some_benchmark(measured):
    table = benchmarks.compare(measured)
    assert list(table["comparison"]) == [comparison.title for comparison in benchmarks.COMPARISONS]
    present = table[~table["comparison"].str.contains("OmniSafe|EnvPool")]
    assert present[["ours", "theirs", "ratio", "low", "high"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "title",
    [
        "training on two cores, vs OmniSafe",
        "stepping Ant on one thread, vs EnvPool",
        "stepping Walker2d on two threads, vs EnvPool",
    ],
)
def test_an_absent_peer_is_skipped_and_says_how_to_install_it(measured, title):
    row = compared(title, measured)
    assert "./run_all.sh setup --peers" in row["note"]
    assert math.isnan(row["ratio"])
    assert row["ours"] > 0  # our side was measured all the same


def test_a_study_runs_at_once_what_its_cores_allow(measured):
    notes = measured.query("benchmark == 'environments'").groupby("side")["note"].first()
    assert notes["shapo"].endswith("threads: 1") and notes["shapo, two cores"].endswith("threads: 2")
    notes = measured.query("benchmark == 'study'").groupby("side")["note"].first()
    assert "2 runs of 200 steps, 1 at once" in notes["one core"]
    assert f"{min(2, joblib.cpu_count())} at once" in notes["two cores"]


def test_memory_is_skipped_where_too_little_is_free(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9))
    table = benchmarks.memory(1, num_envs=20)
    assert list(table["side"]) == ["shapo", "safety_gymnasium"]
    assert (
        math.isnan(table["value"][1]) and table["note"][1] == "skipped: 5 GB of memory must be free, 1 GB are"
    )
    assert table["value"][0] < 100  # MB: a fact about the models, not about the machine


def test_an_epoch_counts_products_and_splits_into_its_parts(measured):
    table = measured.query("benchmark == 'epochs'").pivot_table("value", "side", ["quantity", "repeat"])
    products = table["conjugate gradient"]
    assert (products.loc["vanilla"] == 15).all()
    for variant in ("SHAPO Actor", "SHAPO"):  # a second solve, which is at most as long as the first
        assert (products.loc[variant] > 15).all() and (products.loc[variant] <= 30).all()
    parts = benchmarks.epoch_parts(measured)
    assert list(parts.index) == list(benchmarks.VARIANTS)
    for repeat in (0, 1):
        total = sum(table[part][repeat] for part in parts)
        np.testing.assert_allclose(total, table["total"][repeat], rtol=1e-9)


def test_figure_and_file(measured, tmp_path):
    table = benchmarks.compare(measured)
    fig = figures.benchmarks(table, benchmarks.epoch_parts(measured))
    assert isinstance(fig, Figure)
    written = [text.get_text() for text in fig.axes[0].texts]
    against_peers = table["better"].isin(["more", "less"])
    assert benchmarks.INSTALL_PEERS in written and len(written) == against_peers.sum()
    benchmarks.store(measured, tmp_path / "data")
    stored = benchmarks.read(tmp_path / "data")
    pd.testing.assert_frame_equal(stored[benchmarks.COLUMNS], measured, rtol=1e-12)
    assert stored["versions"].str.contains("mujoco 3").all() and (stored["machine"] != "").all()


def test_the_shipped_measurements_can_be_drawn():
    shipped = benchmarks.read(ROOT / "figures" / "data")
    table = benchmarks.compare(shipped)
    assert list(table["comparison"]) == [comparison.title for comparison in benchmarks.COMPARISONS]
    assert table["ratio"].notna().all()
    assert isinstance(figures.benchmarks(table, benchmarks.epoch_parts(shipped)), Figure)


def test_sides_take_turns_in_mirrored_order():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or {"x": 1.0} for name in "abc"}
    table = benchmarks.alternate("test", sides, 3, "s")
    assert "".join(calls) == "abccbaabc"
    assert list(table["repeat"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_ratios_pair_repeats_and_point_the_right_way():
    speeds = rows("training", "steps", {"shapo": [90, 100, 300], "OmniSafe": [10, 10, 100]})
    row = compared("training on two cores, vs OmniSafe", speeds)
    assert (row["ratio"], row["low"], row["high"]) == (9, 3, 10)  # not 100 / 10, the ratio of medians
    assert (row["ours"], row["theirs"]) == (100, 10)
    times = rows("pieces", "critic pass", {"shapo": [2.0], "autograd": [8.0]})
    assert compared("a critic pass, vs plain autograd", times)["ratio"] == 4


def test_a_cost_is_ours_over_theirs():
    table = rows("epochs", "total", {"SHAPO Actor": [1.05], "vanilla": [1.0]})
    assert compared("an epoch of SHAPO Actor, vs vanilla", table)["ratio"] == 1.05


def test_a_probe_is_quiet_and_its_failure_is_told(capfd):
    with pytest.raises(benchmarks.ProbeError, match=r"num_envs must be a whole number, at least 1; got 0"):
        benchmarks.run_apart(run_env, maker="shapo", task="Ant-v4", num_envs=0, steps=1, resets=1)
    assert capfd.readouterr() == ("", "")


def test_a_probe_that_takes_too_long_leaves_no_process_behind(monkeypatch):
    monkeypatch.setenv("SHAPO_TEST_PROBE", "this one")
    with pytest.raises(TimeoutError):
        benchmarks.run_apart(
            run_env, maker=ASYNC, task="PointGoal1-v0", num_envs=2, steps=10**5, resets=1, timeout=10
        )
    psutil.wait_procs(_marked(), timeout=5)
    assert not _marked()


def _marked():
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SHAPO_TEST_PROBE") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != psutil.Process().pid]


@pytest.mark.skipif(not measuring.is_installed("omnisafe"), reason=benchmarks.INSTALL_PEERS)
def test_omnisafe_trains_beside_us():
    setting, settings = benchmarks.best_omnisafe_setting(1_000, envs=(1,), threads=(1,))
    assert setting == (1, 1) and settings["value"].iloc[0] > 0
    table = benchmarks.training(1, epochs=1, steps_per_epoch=1_000, setting=setting)
    row = compared("training on two cores, vs OmniSafe", table)
    assert np.isfinite(row["ratio"]) and row["note"] == ""


@pytest.mark.skipif(not measuring.is_installed("envpool"), reason=benchmarks.INSTALL_PEERS)
def test_envpool_steps_beside_us():
    table = benchmarks.locomotion(1, steps=100, task="Walker2d-v4", num_envs=4)
    row = compared("stepping Walker2d on two threads, vs EnvPool", table)
    assert np.isfinite(row["ratio"]) and row["note"] == ""


@pytest.mark.skipif(not measuring.is_installed("envpool"), reason=benchmarks.INSTALL_PEERS)
@pytest.mark.parametrize("task", ["Ant-v4", "Walker2d-v4"])
def test_envpool_has_the_same_task(task):
    import envpool

    ours = gymnasium.make(task).unwrapped
    theirs = envpool.make_spec(task, num_envs=1).config
    assert theirs.frame_skip == ours.frame_skip
    assert theirs.reset_noise_scale == ours._reset_noise_scale
    assert theirs.ctrl_cost_weight == ours._ctrl_cost_weight
    assert (theirs.healthy_z_min, theirs.healthy_z_max) == ours._healthy_z_range
    assert theirs.max_episode_steps == TASKS[task].max_episode_steps
    assert theirs.terminate_when_unhealthy and not getattr(theirs, "use_contact_force", False)
