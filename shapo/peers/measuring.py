"""How everything is measured: in a process of its own, in turn, into one tidy table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from shapo.runs.store import ROOT
from shapo.runs.workers import ONE_THREAD

TASK = "PointGoal1-v0"  # where a benchmark is not told another
CORES = 2  # what every side has at most
INSTALL_PEERS = "skipped: install with ./run_all.sh setup --peers"
COLUMNS = ["benchmark", "task", "quantity", "side", "repeat", "value", "unit", "note"]


class ProbeError(RuntimeError):
    """A probe failed in its process; the message ends with what it wrote to stderr."""


def run_apart(
    probe: Callable, *, cores: int = 1, threads: int = 1, timeout: float = 1200, **arguments
) -> Any:
    """What `probe(**arguments)` returns in a fresh process on `cores` cores with `threads` numerical threads.

    It writes nothing to the terminal or the working directory, and whatever it starts ends with it.
    probe: a function of some module. arguments: JSON-able, as is what it returns. timeout: seconds.
    Raises ProbeError when the probe fails, subprocess.TimeoutExpired when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="shapo-benchmark-") as folder:
        result, errors = Path(folder, "result.json"), Path(folder, "stderr")
        call = [probe.__module__, probe.__name__, json.dumps(arguments), str(cores), str(result)]
        environment = os.environ | dict.fromkeys(ONE_THREAD, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "shapo.peers", *call], cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        try:
            process.wait(timeout)
        finally:
            with suppress(ProcessLookupError):  # the workers of its environments, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise ProbeError(f"{probe.__name__}({arguments}) failed:\n{errors.read_text()[-3000:]}")
        return json.loads(result.read_text())


def answer(module: str, name: str, arguments: str, cores: str, result: str) -> None:
    """The other end of `run_apart`: calls the probe and writes what it returns to the file `result`."""
    if hasattr(os, "sched_setaffinity"):  # elsewhere (macOS) the system places us as it likes
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    probe = getattr(importlib.import_module(module), name)
    Path(result).write_text(json.dumps(probe(**json.loads(arguments))))


def alternate(
    benchmark: str,
    sides: Mapping[str, Callable[[], dict]],
    repeats: int,
    units: Mapping[str, str] | str,
    task: str = TASK,
) -> pd.DataFrame:
    """Measures all sides `repeats` times, in turn and every other round in reverse: a drift hits all alike.

    A side returns its values by the name of the quantity, and may add a "note". units: of each quantity or of
    all.
    """
    rows = []
    with tqdm(total=repeats * len(sides), desc=f"{benchmark} {task}", unit="probe", file=sys.stdout) as bar:
        for repeat in range(repeats):
            for side in list(sides)[:: -1 if repeat % 2 else 1]:
                values = sides[side]()
                note = values.pop("note", "")
                for quantity, value in values.items():
                    unit = units if isinstance(units, str) else units[quantity]
                    rows.append((benchmark, task, quantity, side, repeat, value, unit, note))
                bar.update()
    return pd.DataFrame(rows, columns=COLUMNS)


def sides_of_one_probe(rows: pd.DataFrame) -> pd.DataFrame:
    """For probes that measure all sides themselves and return values by side: swaps the two columns."""
    return rows.rename(columns={"side": "quantity", "quantity": "side"})[COLUMNS]


def skipped(
    benchmark: str, quantity: str, side: str, unit: str, why: str = INSTALL_PEERS, task: str = TASK
) -> pd.DataFrame:
    """The row of a side that was not measured."""
    return pd.DataFrame([(benchmark, task, quantity, side, 0, np.nan, unit, why)], columns=COLUMNS)


def in_turn(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way, the mean of two calls in mirrored order, after one that warms up."""
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way()
    for name in (*ways, *reversed(ways)):
        start = time.perf_counter()
        ways[name]()
        seconds[name] += time.perf_counter() - start
    return {name: value / 2 for name, value in seconds.items()}


def is_installed(peer: str) -> bool:
    """Whether an optional peer is there, found out without importing it."""
    return importlib.util.find_spec(peer) is not None
