"""The way everything is measured: in a process of its own, in turn, into one tidy table."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from loky import ProcessPoolExecutor
from tqdm import tqdm

from shapo.runs.run import provenance
from shapo.runs.workers import ONE_THREAD

TASK = "PointGoal1-v0"  # the default task of a benchmark
CORES = 2  # the most that any side uses
INSTALL_PEERS = "skipped: install with ./run_all.sh setup --peers"
COLUMNS = ["benchmark", "task", "quantity", "side", "repeat", "value", "unit", "note"]


class ProbeError(RuntimeError):
    """A probe failed in its process. The message ends with the probe's error, which is the cause."""


def run_apart(
    probe: Callable, *, cores: int = 1, threads: int = 1, timeout: float = 1200, **arguments
) -> Any:
    """Runs `probe(**arguments)` in a fresh process on `cores` cores with `threads` numerical threads.

    The process writes nothing to the terminal or the working directory, and whatever it starts ends with it.
    probe: a function of a module, whose result is returned. timeout: seconds. Raises ProbeError when the probe fails,
    TimeoutError when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="shapo-benchmark-") as folder:
        apart = ProcessPoolExecutor(
            1,
            env=dict.fromkeys(ONE_THREAD, str(threads)),
            initializer=_confine,
            initargs=(cores, threads, folder),
        )
        try:
            return apart.submit(probe, **arguments).result(timeout)
        except TimeoutError:
            raise
        except Exception as error:
            raise ProbeError(
                f"{probe.__name__}({arguments}) failed:\n{type(error).__name__}: {error}"
            ) from error
        finally:
            apart.shutdown(kill_workers=True)  # and the workers of its environments


def _confine(cores: int, threads: int, folder: str) -> None:
    """Limits a probe's process to its cores and threads, moves it to its folder, and silences it."""
    if hasattr(os, "sched_setaffinity"):  # elsewhere (macOS) the system chooses the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(None, force=True)  # loky's method cannot start async environments
    os.chdir(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)


def alternate(
    benchmark: str, sides: Mapping[str, Callable[[], dict]], repeats: int, units: Mapping[str, str] | str,
    task: str = TASK,
) -> pd.DataFrame:  # fmt: skip
    """Measures all sides `repeats` times in turn, every other round in reverse, so that a drift affects all alike.

    A side returns its values by the name of the quantity, and may add a "note". units: per quantity, or one for all.
    """
    rows = []
    with tqdm(total=repeats * len(sides), desc=f"{benchmark} {task}", unit="probe", file=sys.stdout) as bar:
        for repeat in range(repeats):
            for side in list(sides)[:: -1 if repeat % 2 else 1]:
                bar.set_postfix_str(f"measuring {side}")
                values = sides[side]()
                note = values.pop("note", "")
                for quantity, value in values.items():
                    unit = units if isinstance(units, str) else units[quantity]
                    rows.append((benchmark, task, quantity, side, repeat, value, unit, note))
                bar.update()
        bar.set_postfix_str("")
    return pd.DataFrame(rows, columns=COLUMNS)


def side_by_side(benchmark: str, probes: Mapping[str, Callable[[], dict]], *settings: Any) -> pd.DataFrame:
    """`alternate` for probes that each measure one quantity of all sides and return its values by side."""
    rows = alternate(benchmark, probes, *settings)
    return rows.rename(columns={"side": "quantity", "quantity": "side"})[COLUMNS]


def with_skipped(rows: pd.DataFrame, sides: Sequence[str], why: str = INSTALL_PEERS) -> pd.DataFrame:
    """The measurements, with a row of their first quantity for each of the sides that was not measured."""
    row = rows.iloc[[0]].assign(repeat=0, value=np.nan, note=why)
    absent = [row.assign(side=side) for side in sides if side not in set(rows["side"])]
    return pd.concat([rows, *absent], ignore_index=True)


def in_turn(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way: the mean of two calls in mirrored order, after a call that warms up."""
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way()
    for name in (*ways, *reversed(ways)):
        start = time.perf_counter()
        ways[name]()
        seconds[name] += time.perf_counter() - start
    return {name: value / 2 for name, value in seconds.items()}


def at_once(function: Callable, calls: Sequence[tuple], what: str, jobs: int = 2) -> Iterator[Any]:
    """Yields the result of each call of `function`, in order, from `jobs` single-threaded processes, with a bar."""
    bar = tqdm(total=len(calls), desc=what, unit="run", file=sys.stdout, postfix="the first of them train")
    with bar, joblib.parallel_config("loky", inner_max_num_threads=1):
        delayed = (joblib.delayed(function)(*call) for call in calls)
        for result in joblib.Parallel(jobs, return_as="generator")(delayed):
            bar.set_postfix_str("", refresh=False)
            bar.update()
            yield result


def is_installed(peer: str) -> bool:
    """Whether an optional peer is installed; it is not imported."""
    return importlib.util.find_spec(peer) is not None


def here() -> dict[str, str]:
    """Commit, machine and package versions of this process, as columns of a table that ships."""
    found = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return {"machine": found["machine"], "commit": found["commit"], "versions": versions}
