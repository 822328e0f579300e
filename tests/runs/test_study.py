"""Many runs together: on threads, processes and a real Dask cluster; killed, failing, on full and read-only disks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

import shapo
from shapo.algorithms.trainer import Trainer
from shapo.runs import study as studies
from shapo.runs import workers
from shapo.runs.packing import pack
from shapo.runs.store import ROOT, load_checkpoint
from shapo.runs.study import StudyError
from shapo.runs.train import failure

SMALL = shapo.Config(
    total_steps=1_600, steps_per_epoch=400, num_envs=4, minibatch_size=100, hidden_sizes=(8,), critic_passes=2, seed=1
)  # fmt: skip


def results(folder):
    """Of each finished run under `folder`: the bytes of its tables, and the arrays of its checkpoint but its timing."""
    found = {}
    for run in sorted(table.parent for table in Path(folder).glob("*/*/progress.csv")):
        tables = [(run / f"{name}.csv").read_bytes() for name in ("progress", "episodes")]
        arrays, meta = load_checkpoint(run / "checkpoint")
        arrays = {k: v.tobytes() for k, v in arrays.items() if not k.startswith("timing:")}
        found[run.name] = (tables, arrays, {k: v for k, v in meta.items() if k != "provenance"})
    return found


def on_a_thread(study, **options):
    with ThreadPoolExecutor(1) as executor:
        return study.run(executor, progress=False, **options)


def test_a_study_is_a_set_of_runs_in_any_number_of_threads(tmp_path):
    configs = [replace(SMALL, seed=seed) for seed in (1, 2, 1)]
    with ThreadPoolExecutor(2) as executor:
        study = shapo.Study("pair", configs, tmp_path / "two").run(executor, progress=False)
    assert [run.config for run in study.runs] == configs[:2] and not study.missing
    on_a_thread(shapo.Study("one", configs, tmp_path / "one"))
    assert results(tmp_path / "two") == results(tmp_path / "one") and len(results(tmp_path / "one")) == 2
    assert not study.progress[study.progress.run == 0].equals(study.progress[study.progress.run == 1])


def test_what_a_study_does_not_take_is_named(tmp_path):
    with pytest.raises(ValueError, match="at least one Config"):
        shapo.Study("none", [])
    with pytest.raises(
        TypeError, match=r"configs must be a list of configs, such as \[config\]; got Config\(task="
    ):
        shapo.Study("x", SMALL)
    with pytest.raises(TypeError, match=r"configs\[1\] must be a shapo.Config or a shapo.RobotConfig; got 5"):
        shapo.Study("x", [SMALL, 5])
    with pytest.raises(TypeError, match="name must be a name such as 'mine'; got 3"):
        shapo.Study(3, [SMALL])
    assert len(shapo.Study("x", (replace(SMALL, seed=seed) for seed in (1, 2))).runs) == 2
    with pytest.raises(TypeError, match=r"executor must be None or a concurrent.futures.Executor.* got 2"):
        shapo.Study("x", [SMALL], tmp_path).run(2)


@dataclass(frozen=True)
class Fails:
    """A perturbation that raises `error` in its third update as long as `path` exists."""

    path: str
    error: str = "Untransferable"

    def __call__(self, gradient, fisher, samples):
        if (
            torch.get_num_threads() != 1
        ):  # no assert: pytest's are other code than the workers', hence another run
            raise ValueError("more than one thread")
        if samples.steps == 1200 and os.path.exists(self.path):
            raise {"MemoryError": MemoryError, "OSError": OSError, "Untransferable": Untransferable}[
                self.error
            ](28, "it broke")
        return torch.zeros_like(gradient)


class Untransferable(Exception):
    """Survives no journey between processes: pickle calls it with one argument."""

    def __init__(self, code, message):
        super().__init__(f"{message} with code {code}")


def test_a_failed_run_is_tried_again_only_when_asked(tmp_path):
    (tmp_path / "broken").touch()
    configs = [replace(SMALL, actor=Fails(str(tmp_path / "broken"))), SMALL, replace(SMALL, seed=2)]
    runs = tmp_path / "runs"
    with pytest.raises(StudyError, match="1 of the study's runs failed") as raised:
        shapo.Study("mixed", configs, runs).run(progress=False)
    study = shapo.Study("mixed", configs, runs)  # as after a restart
    bad, *good = study.runs
    assert all(run.finished for run in good) and bad.epoch == 2
    for said in (
        "Untransferable: it broke with code 28",
        "Fails(path=",
        "seed 1",
        str(bad.path),
        "retry_failed",
    ):
        assert said in str(raised.value)
    record = json.loads((bad.path / "error.json").read_text())
    assert record == failure(bad) and record["epoch"] == 2 and "raise {" in record["traceback"]
    assert record["config"]["actor"]["class"] == "Fails" and record["provenance"]["versions"]
    (row,) = study.failures.to_dict("records")
    assert (row["run"], row["epoch"], row["again"]) == (0, 2, False) and row["actor"].startswith("Fails(")

    before = {path.name: path.stat().st_mtime_ns for path in bad.path.iterdir()}
    with pytest.raises(StudyError, match="it broke"):
        on_a_thread(study)
    assert {path.name: path.stat().st_mtime_ns for path in bad.path.iterdir()} == before, "it was tried again"
    with pytest.raises(StudyError, match="it broke"):
        on_a_thread(study, retry_failed=True)
    assert (bad.path / "error.json").stat().st_mtime_ns != before["error.json"]
    (tmp_path / "broken").unlink()
    on_a_thread(study, retry_failed=True)
    assert bad.finished and failure(bad) is None and not len(study.failures) and not study.missing
    never_broke = shapo.train(bad.config, runs=tmp_path / "elsewhere", progress=False)
    assert results(never_broke.folder).items() <= results(runs).items()


@pytest.mark.parametrize("error", ["MemoryError", "OSError"])
def test_what_is_not_the_runs_fault_is_tried_again_unasked(tmp_path, error):
    (tmp_path / "broken").touch()
    config = replace(SMALL, actor=Fails(str(tmp_path / "broken"), error))
    study = shapo.Study("unlucky", [config], tmp_path / "runs")
    with pytest.raises(StudyError, match=error):
        on_a_thread(study)
    assert study.failures.again.all() and study.status().failed.sum() == 1
    assert study.runs[0].epoch == 2 and not (study.runs[0].path / "error.json").exists()
    (tmp_path / "broken").unlink()
    assert on_a_thread(study).runs[0].finished and not len(study.failures)


# A notebook cell: a class that no module holds, and a study.
CELL = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
import torch
import shapo

@dataclass(frozen=True)
class Mine:
    always: bool = False

    def __call__(self, gradient, fisher, samples):
        if torch.get_num_threads() != 1:
            raise ValueError("more than one thread")
        if samples.steps == 1200 and "MARK" in os.environ:
            if not self.always:
                try:
                    os.mkdir(os.environ["MARK"])
                except FileExistsError:  # one has died already
                    return -1e-3 * gradient.sign()
            os.kill(os.getpid(), 9)
        return -1e-3 * gradient.sign()

small = shapo.Config(actor=Mine(), total_steps=1_600, steps_per_epoch=400, num_envs=4, minibatch_size=100,
                     hidden_sizes=(8,), critic_passes=2)
study = shapo.Study("cell", [replace(small, seed=seed) for seed in range(3)], sys.argv[1])
"""
SERIAL = """
with ThreadPoolExecutor(1) as executor:
    study.run(executor, progress=False)
"""
LOKY = """
study = shapo.Study("cell", [replace(small, actor=Mine(always=True)), *(run.config for run in study.runs)], sys.argv[1])
try:
    study.run(progress=False)
except shapo.runs.study.StudyError as error:
    print(error)
print(study.runs[0].epoch, list(study.failures.again), list(study.failures.run))
"""
DASK = """
from distributed import Client, LocalCluster
nannies = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
with LocalCluster(2, **nannies) as cluster, Client(cluster) as client:
    before = set(client.run(os.getpid).values())
    study.run(client.get_executor(), progress=False)
    assert len(before - set(client.run(os.getpid).values())) == 1, "no worker died"
"""


def cell(code, *arguments, mark=None, script=None):
    """Runs it as a notebook would, or as a script, which has a file that a process of its own could import."""
    environment = os.environ | ({"MARK": str(mark)} if mark else {})
    if script:
        script.write_text(CELL + code)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *([str(script)] if script else ["-c", CELL + code]), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def serial_cell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    cell(SERIAL, folder)
    assert len(results(folder)) == 3
    return folder


def test_a_killed_process_costs_nothing_but_time(tmp_path, serial_cell):
    said = cell(LOKY, tmp_path / "runs", mark=tmp_path / "mark", script=tmp_path / "no_guard.py")
    assert (tmp_path / "mark").exists(), "nothing was killed"
    assert results(tmp_path / "runs") == results(serial_cell)
    assert "1 of the study's runs failed" in said and "the process that trained it died 3 times" in said
    assert "SIGKILL" in said and said.splitlines()[-1] == "2 [True] [0]"


def test_a_dask_cluster_with_a_killed_worker_gives_the_serial_bytes(tmp_path, serial_cell):
    cell(DASK, tmp_path / "runs", mark=tmp_path / "mark")
    assert results(tmp_path / "runs") == results(serial_cell)


# Two robots first, so that two threads would build the first one at once; then a perturbation that draws.
RANDOM = """
@dataclass(frozen=True)
class RandomSAM:
    def __call__(self, gradient, fisher, samples):
        return 1e-3 * torch.randn_like(gradient)

robot = shapo.RobotConfig("DiffAnt", shapo.PPO(horizon=8, passes=2, minibatches=2), iterations=2, num_envs=4)
configs = [replace(robot, seed=seed) for seed in (1, 2)] + [replace(small, actor=RandomSAM(), seed=s) for s in (1, 2)]
study = shapo.Study("random", configs, sys.argv[1])
"""
TWO_THREADS = SERIAL.replace("(1)", "(2)")
DASK_THREADS = """
from distributed import Client, LocalCluster
with LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
    study.run(client.get_executor(), progress=False)
"""


def test_threads_of_one_process_give_the_serial_bytes(tmp_path):
    for name, code in {"one": SERIAL, "two": TWO_THREADS, "dask": DASK_THREADS}.items():
        cell(RANDOM + code, tmp_path / name)
    expected = results(tmp_path / "one")
    assert len(expected) == 4
    assert results(tmp_path / "two") == expected
    assert results(tmp_path / "dask") == expected


def test_an_interrupt_ends_the_processes_and_the_next_run_goes_on(tmp_path):
    study = shapo.Study("long", [replace(SMALL, total_steps=400_000, seed=seed) for seed in (1, 2)], tmp_path)

    def interrupt():
        while not any(run.epoch for run in study.runs):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def workers_of_loky():
        return [p for p in psutil.Process().children() if "popen_loky" in " ".join(p.cmdline())]

    before, watcher = set(workers_of_loky()), threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        study.run(progress=False)
    watcher.join()
    assert not set(workers_of_loky()) - before
    assert study.status().partial.sum() >= 1 and not len(study.failures)


def test_a_study_whose_workers_see_another_store_says_so(tmp_path, monkeypatch):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, config, path, token):
            return super().submit(
                function, config, tmp_path / "elsewhere" / path.relative_to(tmp_path / "here"), token
            )

    monkeypatch.setattr(studies, "PATIENCE", 0.0)
    with Elsewhere(1) as executor, pytest.raises(StudyError, match="do not share this run store"):
        shapo.Study("lost", [replace(SMALL, total_steps=400)], tmp_path / "here").run(
            executor, progress=False
        )


def test_a_worker_in_which_a_class_has_other_code_says_so(tmp_path):
    class Stale(ThreadPoolExecutor):
        def submit(self, function, config, path, token):
            return super().submit(function, replace(config, seed=5), path, token)

    with Stale(1) as executor, pytest.raises(StudyError, match="has other code in the executor's workers"):
        shapo.Study("stale", [SMALL], tmp_path).run(executor, progress=False)
    assert not list(tmp_path.iterdir())


def test_results_that_arrive_late_are_waited_for(tmp_path):
    class Late(ThreadPoolExecutor):
        def submit(self, function, config, path, token):
            return super().submit(
                function, config, tmp_path / "elsewhere" / path.relative_to(tmp_path / "here"), token
            )

    def arrive():
        while not list(tmp_path.glob("elsewhere/*/*/progress.csv")):
            time.sleep(0.05)
        time.sleep(1.5)
        os.rename(tmp_path / "elsewhere", tmp_path / "here")

    network = threading.Thread(target=arrive)
    network.start()
    with Late(1) as executor:
        study = shapo.Study("late", [replace(SMALL, total_steps=400)], tmp_path / "here").run(
            executor, progress=False
        )
    network.join()
    assert study.runs[0].finished


def test_an_executor_that_gives_up_is_not_the_end_of_what_was_done(tmp_path):
    class Cancels(ThreadPoolExecutor):
        def submit(self, *call):
            future = super().submit(*call)
            if self.seen:
                future.cancel()
            self.seen = True
            return future

    with Cancels(1) as executor, pytest.raises(StudyError, match="its executor cancelled it") as raised:
        executor.seen = False
        study = shapo.Study("half", [SMALL, replace(SMALL, seed=2)], tmp_path)
        study.run(executor, progress=False)
    assert list(raised.value.failures.run) == [1] and study.runs[0].finished


def test_a_damaged_run_does_not_stop_its_study(tmp_path):
    config = replace(SMALL, total_steps=400)
    bad, good = shapo.Run(config, tmp_path), shapo.Run(replace(config, seed=5), tmp_path)
    bad.path.mkdir(parents=True)
    bad.checkpoint.write_bytes(b"torn")
    study = shapo.Study("mixed", [bad.config, good.config], tmp_path)
    with pytest.raises(StudyError, match="1 of the study's runs failed") as error:
        on_a_thread(study)
    assert str(bad.checkpoint) in str(error.value) and "move it away" in str(error.value) and good.finished
    assert bad.checkpoint.read_bytes() == b"torn" and "damaged" in repr(bad)
    assert list(study.failures.run) == [0] and study.status().failed.sum() == 1
    with pytest.warns(UserWarning, match="left out of progress"):
        assert set(study.progress.run) == {1}
    bad.checkpoint.unlink()
    assert on_a_thread(study).runs[0].finished  # moved away, it is begun anew without being asked


DISK_FULL = """
import resource, signal, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_study import SMALL
import shapo
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes beyond the limit then fail as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
study = shapo.Study("full", [replace(SMALL, hidden_sizes=(64, 64)), SMALL], {runs!r})
try:
    with ThreadPoolExecutor(1) as executor:
        study.run(executor, progress=False)
except shapo.runs.study.StudyError as error:
    print(error)
"""


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    config = replace(SMALL, hidden_sizes=(64, 64))
    whole = shapo.train(config, runs=tmp_path / "elsewhere", progress=False)
    run = shapo.Run(config, tmp_path / "runs")
    with monkeypatch.context() as patch:  # so far it went well
        patch.setattr("shapo.algorithms.trainer.Trainer.run_epoch", interrupted_after(2, Trainer.run_epoch))
        with pytest.raises(KeyboardInterrupt):
            shapo.train(config, runs=run.folder, progress=False)
    good = run.checkpoint.read_bytes()
    code = DISK_FULL.format(
        tests=os.path.dirname(__file__), limit=whole.checkpoint.stat().st_size - 100, runs=str(run.folder)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "1 of the study's runs failed" in done.stdout, done.stderr
    for said in ("File too large", str(run.checkpoint), "Make room", "the next run() tries it again"):
        assert said in done.stdout
    assert run.epoch == 3 or run.checkpoint.read_bytes() == good  # as far as there was room
    assert shapo.Run(SMALL, run.folder).finished
    assert not list(run.folder.rglob("*.tmp")) and not list(run.folder.rglob("error.json"))
    on_a_thread(shapo.Study("room", [config], run.folder))
    assert results(whole.folder).items() <= results(run.folder).items()


def interrupted_after(epochs, run_epoch):
    def run(trainer):
        if trainer.epoch == epochs:
            raise KeyboardInterrupt
        return run_epoch(trainer)

    return run


@pytest.fixture
def tmpfs(tmp_path):
    """A file system of 1 MB to itself; where mounting is forbidden, the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_file_system(tmpfs):
    study = shapo.Study("full", [replace(SMALL, total_steps=400), replace(SMALL, seed=2)], tmpfs / "runs")
    on_a_thread(shapo.Study("first", [study.runs[0].config], tmpfs / "runs"))
    before = results(tmpfs / "runs")
    with open(tmpfs / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(StudyError, match=r"No space left on device.*Make room"):
        on_a_thread(study)
    assert results(tmpfs / "runs") == before and not list(tmpfs.rglob("*.tmp"))
    (tmpfs / "filler").unlink()
    assert not on_a_thread(study).missing


def test_a_read_only_store(tmpfs):
    config = replace(SMALL, total_steps=400)
    done, begun, new = (replace(config, seed=seed) for seed in (1, 2, 3))
    shapo.train(done, runs=tmpfs, progress=False)
    shapo.Run(begun, tmpfs).path.mkdir()
    before = sorted(tmpfs.rglob("*"))
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    study = shapo.Study("read only", [done, begun, new], tmpfs)
    with pytest.raises(StudyError, match="2 of the study's runs failed") as raised:
        on_a_thread(study)
    for run in study.runs[1:]:
        assert re.search(rf"Read-only file system.*write permission.*{run.path}", str(raised.value))
    assert study.runs[0].finished and set(study.progress.run) == {0} and sorted(tmpfs.rglob("*")) == before


def stored(config, folder, seconds, epoch):
    """A run in the store whose epochs took `seconds` each, without training it."""
    run, trainer = shapo.Run(config, folder), Trainer(config)
    trainer.epoch = epoch
    trainer.progress = [{"epoch": i + 1, "steps": 400 * (i + 1), "episode_return": 1.0} for i in range(epoch)]
    trainer.timing = [{"total": value} for value in (*[seconds] * (epoch - 1), 100 * seconds)][:epoch]
    trainer.episodes = [{"steps": 1000, "return": 2.0}] * (epoch == config.epochs)
    run.path.mkdir(parents=True)
    run.write_config()
    run.save(*trainer.state())
    return run


def test_how_long_the_missing_would_take(tmp_path, monkeypatch):
    """By its own runs of the same settings, else by those of its task, here or shipped."""
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "shipped"))
    shaken, runs = shapo.FisherSAM(0.001), tmp_path / "runs"
    four = [
        SMALL,
        replace(SMALL, actor=shaken),
        replace(SMALL, algorithm="CPO"),
        replace(SMALL, task="Ant-v4"),
    ]

    def seconds(study):
        return (study.status().core_hours * 3600).tolist()

    study = shapo.Study("four", [replace(config, seed=seed) for config in four for seed in (1, 2)], runs)
    assert np.isnan(seconds(study)).all() and "the other 8 would take an unknown time" in str(study)
    stored(four[0], runs, 4.0, 4)
    np.testing.assert_allclose(seconds(study), [16, 32, 32, np.nan])  # from the first run
    stored(four[1], runs, 8.0, 3)
    np.testing.assert_allclose(seconds(study), [16, 8 + 32, 2 * 24, np.nan])
    other = shapo.Study("other", [replace(SMALL, gamma=0.9, total_steps=4_000)], runs)
    np.testing.assert_allclose(seconds(other), [60])  # the store has runs of its task
    pack(shapo.Study("one", [four[0]], runs), tmp_path / "shipped")
    elsewhere = shapo.Study("other", [other.runs[0].config, four[3]], tmp_path / "empty")
    np.testing.assert_allclose(seconds(elsewhere), [40, np.nan])


def test_status_counts_runs_and_what_is_left_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "nothing shipped"))
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    both = [replace(SMALL, seed=seed, algorithm=name) for name in ("PIDLag", "TRPOLag") for seed in range(5)]
    study = shapo.Study("some", both, tmp_path)
    assert "0 of 10 runs are there; the other 10 would take an unknown time" in str(study)
    stored(both[0], tmp_path, 3600.0, 4)
    stored(both[1], tmp_path, 3600.0, 3)
    stored(both[2], tmp_path, 3600.0, 2)
    (study.runs[2].path / "error.json").write_text("{")  # somebody edited it
    status = study.status()
    assert list(status.columns) == ["task", "algorithm", "runs", *studies.STATES, "core_hours"]
    assert status.algorithm.tolist() == ["PIDLag", "TRPOLag"]
    assert status[["runs", *studies.STATES]].to_numpy().tolist() == [[5, 1, 0, 1, 1, 2], [5, 0, 0, 0, 0, 5]]
    assert status.core_hours.tolist() == pytest.approx([1 + 2 + 8, 20])
    assert str(study) == (
        "1 of 10 runs are there; the other 9 would take about 15:30:00 on 2 cores; 1 failed, see .failures"
    )
    assert len(study.missing) == 9 and "not readable" in study.failures.error.item()


def test_tables_of_many_runs_say_whose_they_are(tmp_path):
    configs = [replace(SMALL, seed=seed, algorithm=name) for name in ("TRPOLag", "PIDLag") for seed in (3, 4)]
    study = shapo.Study("tidy", configs, tmp_path)
    assert study.progress.columns.tolist() == ["run", "task", "algorithm", "seed"] and not len(study.progress)
    stored(configs[3], tmp_path, 1.0, 4)
    stored(configs[0], tmp_path, 1.0, 2)
    progress, episodes = study.progress, study.episodes
    assert progress.run.tolist() == [0, 0, 3, 3, 3, 3] and progress.seed.tolist() == [3, 3, 4, 4, 4, 4]
    assert progress.algorithm.tolist() == ["TRPOLag"] * 2 + ["PIDLag"] * 4
    assert progress.epoch.tolist() == [1, 2, 1, 2, 3, 4] and progress.epoch.dtype == int
    assert episodes.run.tolist() == [3] and episodes["return"].tolist() == [2.0]
    progress.to_parquet(tmp_path / "table")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table"), progress)


def test_settings_name_what_differs():
    configs = [
        SMALL,
        replace(SMALL, algorithm=shapo.PIDLag(target_kl=0.03)),
        replace(SMALL, hidden_sizes=(4, 4)),
    ]
    table = shapo.Study("three", configs).settings
    assert table.columns.tolist() == ["task", "algorithm", "hidden_sizes", "seed"]
    assert table.algorithm.tolist() == ["PIDLag", "PIDLag(target_kl=0.03)", "PIDLag"]
    assert table.hidden_sizes.tolist() == ["(8,)", "(8,)", "(4, 4)"]
    costs = (lambda info: 1.0), (lambda info: 2.0)
    tasks = [shapo.OwnTask("Hopper-v4", 1, cost, max_episode_steps=100) for cost in costs]
    several = shapo.Study("tasks", [SMALL, *(replace(SMALL, task=task) for task in tasks)])
    assert several.settings.task[0] == "PointGoal1-v0" and several.settings.task.nunique() == 3
    assert several.status().runs.tolist() == [1, 1, 1]
    assert shapo.Study("task", [replace(SMALL, task=tasks[0])]).settings.task.tolist() == ["Hopper-v4"]
    actor = shapo.Study("two", [SMALL, replace(SMALL, actor=shapo.FisherSAM(0.002))]).settings.actor
    assert actor[0] == "none" and actor[1].startswith("FisherSAM(delta_down=0.002")


def test_watching_reads_only_what_changed(tmp_path, monkeypatch):
    configs = [replace(SMALL, seed=seed) for seed in range(20)]
    study = shapo.Study("watched", configs, tmp_path)
    for config in configs[:12]:
        stored(config, tmp_path, 1.0, 2)
    rows, read = {}, []
    monkeypatch.setattr(
        "shapo.runs.run.load_checkpoint", lambda path: read.append(path) or load_checkpoint(path)
    )
    assert sum(studies._reread(run, rows) for run in study.runs) == 12 and len(read) == 12
    assert sum(row["epoch"] for _, row in rows.values()) == 24
    assert (
        not any(studies._reread(run, rows) for run in study.runs)
        and len(study.missing) == 20
        and len(read) == 12
    )
    on_a_thread(shapo.Study("one", configs[:1], tmp_path))
    read.clear()
    assert [studies._reread(run, rows) for run in study.runs] == [True] + [False] * 19 and len(read) <= 1


def test_the_recipe_for_slurm_asks_for_one_core_and_one_thread():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    from dask_jobqueue import SLURMCluster

    for number, handler in handlers.items():  # importing it made Ctrl-C end the process
        signal.signal(number, handler)
    recipe = workers.__doc__
    assert "SLURMCluster(**ONE_RUN_PER_JOB, memory=" in recipe and "get_executor()" in recipe
    resources = dict(re.findall(r'(memory|walltime)="(.*?)"', recipe))
    with SLURMCluster(
        **workers.ONE_RUN_PER_JOB, **resources, scheduler_options={"dashboard_address": None}
    ) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -n 1", "#SBATCH --cpus-per-task=1", "#SBATCH --mem=2G", "#SBATCH -t 24:00:00"):
        assert line in script.splitlines()
    assert "export OMP_NUM_THREADS=1" in script.splitlines()
    assert "--nthreads 1" in script and "--nworkers" not in script and "--nanny" in script


def test_our_executor_waits_for_what_it_was_given():
    with workers.OneProcessPerCore(1) as executor:
        futures = [executor.submit(pow, 2, n) for n in (3, 4)]
    assert [future.result(timeout=0) for future in futures] == [8, 16]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them_however_it_ends(how):
    code = (
        "import os, time; from shapo.runs.workers import OneProcessPerCore; own = OneProcessPerCore(1);"
        "print(own.submit(os.getpid).result(), flush=True); own.submit(time.sleep, 600).result()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.is_running() and worker.ppid() == parent.pid
    parent.send_signal(how)
    parent.wait()
    assert psutil.wait_procs([worker], timeout=30)[1] == []
