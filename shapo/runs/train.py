"""train(config): one run on one thread, with checkpoints from which it resumes at any time to the same numbers."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from shapo.checks import NonFiniteError
from shapo.runs.identity import RunConfig, checked_config
from shapo.runs.run import Run, provenance
from shapo.runs.store import CorruptCheckpointError, remove_leftovers, write_atomically, writing
from shapo.runs.switches import plain_torch

NOT_THE_RUNS_FAULT = OSError, MemoryError, CorruptCheckpointError  # mended outside the run, so never recorded
_ONE_AT_A_TIME = threading.RLock()  # threads share PyTorch's generator and switches, and Warp's graphs


def train(
    config: RunConfig,
    *,
    runs: str | Path | None = None,
    progress: bool = True,
    callback: Callable[[dict], object] | None = None,
) -> Run:
    """Trains what `config` describes and returns its `Run`.

    A finished run returns at once. An interrupted run goes on from its last checkpoint, a longer run from a finished
    shorter one whose other settings are equal (but not with SHAC, whose learning rates decay over the whole run). Both
    give the same bytes of progress and episodes. A process trains one run at a time: other threads wait. If another
    process trains the same run, this one waits for it and says so.

    runs: folder of the run store; `shapo.runs.store.runs_folder()` by default. progress: whether to show a bar.
    callback: function called after each epoch trained here with its row of progress; an error that it raises ends the
    call, and is no failure of the run.
    Raises NonFiniteError when training diverges (the last good checkpoint stays), CorruptCheckpointError, OSError, and
    TypeError if `config` is no config.
    """
    checked_config("config", config)
    if not (callback is None or callable(callback)):
        raise TypeError(f"callback must be None or a function of a row of progress; got {callback!r}")
    run = Run(config, runs)
    if run.finished:
        return run
    with _ONE_AT_A_TIME:
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        with _exclusive(run), alone():
            if not run.finished:  # another thread or process may have finished it meanwhile
                remove_leftovers(run.path)
                run.write_config()
                with closing(_epochs(run, progress)) as rows:  # at once, also when the callback raises
                    for row in rows:
                        if callback:
                            callback(dict(row))
    return run


def failure(run: Run) -> dict | None:
    """Returns type, message, traceback, epoch, config, provenance of the error that last stopped `run`; None if none.

    The record stays in the run's folder until training gets past it. Full disks and killed processes leave no record.
    """
    path = run.path / "error.json"
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"type": type(error).__name__, "message": f"{path} is not readable: {error}", "epoch": 0}


@contextmanager
def _recording_failure(run: Run) -> Iterator[None]:
    try:
        yield
    except NOT_THE_RUNS_FAULT:
        raise
    except Exception as error:
        record = {
            "type": type(error).__name__, "message": str(error), "epoch": run.epoch,
            "traceback": "".join(traceback.format_exception(error)),
            "config": run.config.identity["config"], "provenance": provenance(),
        }  # fmt: skip
        try:
            write_atomically(run.path / "error.json", json.dumps(record, indent=2).encode())
        except OSError as unwritten:
            error.add_note(str(unwritten))
        raise


@contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    lock = FileLock(run.path / "lock")
    with writing(run.path / "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waits = f"Another process is training {run.path.name}; waiting for it."
            print(waits, file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits numerical libraries to one thread inside, since a run's bytes must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def alone() -> Iterator[None]:
    """Lets one thread of this process at a time train or roll out, on `one_thread`, in `plain_torch`."""
    with _ONE_AT_A_TIME, one_thread(), plain_torch():
        yield


@contextmanager
def seeded_torch(*entropy: int) -> Iterator[None]:
    """Seeds PyTorch's own generator from `entropy` inside, for perturbations that draw from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield


def _shorter(run: Run) -> Run | None:
    """Returns the longest finished run that differs from `run` only in being shorter, or None."""
    length, found = run.config.length, []
    same_seed = run.path.name.rpartition("-")[0]
    for path in run.path.parent.glob(f"{same_seed}-*/config.json") if length else ():
        with suppress(OSError, ValueError, KeyError, TypeError, CorruptCheckpointError):  # skip this one
            other = replace(run.config, **{length: json.loads(path.read_bytes())["config"][length]})
            other = Run(other, run.folder)
            if other.path == path.parent and other.config.epochs < run.config.epochs and other.finished:
                found.append(other)
    return max(found, key=lambda other: other.epoch, default=None)


@contextmanager
def _begun(run: Run) -> Iterator[Any]:
    """Gives the run's trainer where it stands, and closes its environments at the end. A new trainer is saved, so what
    cannot be stored fails before any epoch.
    """
    trainer, history = run.config.trainer(), {}
    with closing(trainer.env):
        if run.exists:
            run.restore(trainer)
        else:
            if shorter := _shorter(run):
                shorter.restore(trainer)
                history = {"provenance": shorter.provenance}
            arrays, meta = trainer.state()
            run.save(arrays, meta | history)
        yield trainer


def _epochs(run: Run, progress: bool) -> Iterator[dict]:
    """Trains the run to its end and yields its rows of progress. An error here is recorded as the run's failure."""
    config = run.config
    label = f"{type(config.algorithm).__name__} {config.task} seed {config.seed}"
    with _recording_failure(run):
        bar = tqdm(desc=label, total=config.epochs, unit="epoch", disable=not progress, file=sys.stdout,
                   postfix="building the environments")  # fmt: skip
        with bar, _begun(run) as trainer:
            saved = time.monotonic()
            bar.initial = bar.n = trainer.epoch
            bar.unpause()  # the epochs' rate counts from here
            while trainer.epoch < config.epochs:
                try:
                    row = trainer.run_epoch()
                except NonFiniteError as error:
                    raise NonFiniteError(
                        f"{error}, in epoch {trainer.epoch + 1} ({trainer.epoch * config.steps_per_epoch} steps done). "
                        f"The last good checkpoint stays in {run.path}."
                    ) from error
                if time.monotonic() - saved >= config.checkpoint_seconds or trainer.epoch == config.epochs:
                    run.save(*trainer.state())
                    (run.path / "error.json").unlink(missing_ok=True)  # a new failure is recorded anew
                    saved = time.monotonic()
                shown = {label: f"{row[column]:.3g}" for label, column in config.shown.items()}
                shown["steps/s"] = f"{config.steps_per_epoch / trainer.timing[-1]['total']:.0f}"
                bar.set_postfix(shown, refresh=False)
                bar.update()
                yield row
