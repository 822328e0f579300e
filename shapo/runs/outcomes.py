"""What becomes of a run that a study hands to an executor."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from shapo.runs.identity import RunConfig
from shapo.runs.run import Run
from shapo.runs.train import NOT_THE_RUNS_FAULT, failure, train

PATIENCE = 60.0  # seconds: a shared file system may show what another node wrote that much later


def attempt(config: RunConfig, path: Path, token: str) -> None:
    """In a worker: trains the run of that path. Errors that its folder records stay there: not each of them can travel.

    token: makes every attempt a call of its own; Dask would not repeat an equal one.
    """
    run = Run(config, path.parent.parent)
    if run.path != path:
        raise RuntimeError(
            f"a class in the config of {path.name} has other code in the executor's workers than here"
        )
    try:
        train(config, runs=run.folder, progress=False)
    except NOT_THE_RUNS_FAULT:
        raise
    except Exception:
        if not failure(run):
            raise


def unrecorded(futures: dict[Future, Run]) -> dict[Run, str]:
    """What went wrong with runs that are no longer tried, where their folders do not say it."""
    deadline = time.monotonic() + PATIENCE
    said = {}
    for future, run in futures.items():
        if future.cancelled():
            said[run] = "its executor cancelled it"
        elif error := future.exception():
            said[run] = f"{type(error).__name__}: {error}"
        elif not _arrives(run, deadline):
            said[run] = "what it trained is not here: the executor's workers do not share this run store"
    return said


def _arrives(run: Run, deadline: float) -> bool:
    while not (arrived := available(run) or failure(run) is not None) and time.monotonic() < deadline:
        time.sleep(0.2)
    return arrived


def problem(run: Run, unrecorded: dict[Run, str]) -> dict | None:
    """Of a run that is not there because it failed: epoch, error, and whether it is tried again without being asked."""
    if available(run):
        return None
    try:
        epoch = run.epoch
    except NOT_THE_RUNS_FAULT as error:
        return {"epoch": 0, "error": f"{type(error).__name__}: {error}", "again": True}
    if run in unrecorded:
        return {"epoch": epoch, "error": unrecorded[run], "again": True}
    if record := failure(run):
        return {"epoch": epoch, "error": f"{record['type']}: {record['message']}", "again": False}
    return None


def available(run: Run) -> bool:
    """Whether its results are there; a damaged one's are not."""
    try:
        return run.available
    except NOT_THE_RUNS_FAULT:  # its checkpoint is damaged, or may not be read
        return False
