"""train(config): one run on one thread, checkpointed as it goes, resumable at any moment with the same numbers."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from shapo.checks import NonFiniteError
from shapo.runs.identity import RunConfig
from shapo.runs.run import Run, provenance
from shapo.runs.store import (
    CorruptCheckpointError,
    remove_leftovers,
    write_atomically,
    writing,
)

NOT_THE_RUNS_FAULT = OSError, MemoryError, CorruptCheckpointError  # mended outside it, so never recorded


def train(config: RunConfig, *, runs: str | Path | None = None, progress: bool = True) -> Run:
    """Trains what `config` describes and returns its `Run`.

    A finished run returns at once; an interrupted one goes on from its last checkpoint and ends with the same bytes of
    progress and episodes. Where another process works on the same run, this one waits for it, and says so.

    runs: folder of the run store; `shapo.runs.store.runs_folder()` by default. progress: show a bar.
    Raises NonFiniteError when training diverges (the last good checkpoint stays), CorruptCheckpointError, OSError.
    """
    run = Run(config, runs)
    if run.finished:
        return run
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    with _exclusive(run), one_thread():
        if not run.finished:  # another process may have finished it meanwhile
            remove_leftovers(run.path)
            run.write_config()
            with _recording_failure(run):
                _train(run, progress)
    return run


def failure(run: Run) -> dict | None:
    """What stopped `run` when it was last tried: type, message, traceback, epoch, config, provenance; None if nothing.

    Kept in the run's folder until training gets past it. Full disks, killed processes and the like leave none.
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
            print(
                f"Another process is training {run.path.name}; waiting for it.", file=sys.stderr, flush=True
            )
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def one_thread() -> Iterator[None]:
    """Numerical libraries use one thread inside: a run's bytes must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded_torch(*entropy: int) -> Iterator[None]:
    """PyTorch's own generator, for perturbations that draw from it, begins inside as the numbers given say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield


def _train(run: Run, progress: bool) -> None:
    config, trainer = run.config, run.config.trainer()
    if run.exists:
        trainer.restore(*run.load())
    else:
        run.save(*trainer.state())  # what cannot be stored should fail before the first epoch, not after it
    saved = time.monotonic()
    label = f"{type(config.algorithm).__name__} {config.task} seed {config.seed}"
    with tqdm(
        total=config.epochs,
        initial=trainer.epoch,
        desc=label,
        unit="epoch",
        file=sys.stdout,
        disable=not progress,
    ) as bar:
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
                (run.path / "error.json").unlink(
                    missing_ok=True
                )  # it goes on; if it fails again, it says so again
                saved = time.monotonic()
            shown = {label: f"{row[column]:.3g}" for label, column in config.shown.items()}
            shown["steps/s"] = f"{config.steps_per_epoch / trainer.timing[-1]['total']:.0f}"
            bar.set_postfix(shown, refresh=False)
            bar.update()
