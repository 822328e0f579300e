"""Study: many runs together, one single-threaded process per core; what is finished is not run again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import joblib
import pandas as pd
from loky import get_reusable_executor
from tqdm import tqdm

from shapo.config import Config
from shapo.run import Run
from shapo.store import CorruptCheckpointError
from shapo.training import train

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class StudyError(RuntimeError):
    """Some runs of a study failed; the others are done. `failures` pairs each run with what it raised."""

    def __init__(self, failures: list[tuple[Run, BaseException]]):
        self.failures = failures
        lines = [f"  {run.path.name}: {type(error).__name__}: {error}" for run, error in failures]
        super().__init__("\n".join([f"{len(failures)} of the study's runs failed:", *lines]))


class Study:
    """A set of runs under a name.

    configs: what to run; equal configs are one run. runs: folder of the run store.
    """

    def __init__(self, name: str, configs: Sequence[Config], runs: str | Path | None = None):
        if not configs:
            raise ValueError("configs must hold at least one Config; got none")
        self.name, self._folder = name, runs
        self.runs = [Run(config, runs) for config in dict.fromkeys(configs)]

    def run(self, executor: Executor | None = None, progress: bool = True) -> Study:
        """Trains what is missing, resumes what was cut off, skips what is finished.

        executor: any `concurrent.futures.Executor`; None for one process per core. Runs that fail do not stop the
        others; raises StudyError, which lists them, at the end, and RuntimeError where workers see another run store.
        """
        missing, failures = [], []
        for run in self.runs:
            try:
                if not run.finished:
                    missing.append(run)
            except CorruptCheckpointError as error:
                failures.append((run, error))
        own = executor is None and missing
        if own:
            executor = get_reusable_executor(min(joblib.cpu_count(), len(missing)), env=ONE_THREAD)
        futures = {
            executor.submit(train, run.config, runs=run.folder, progress=False): run for run in missing
        }
        try:
            self._follow(set(futures), missing, progress)
        except BaseException:
            for future in futures:
                future.cancel()
            if own:
                executor.shutdown(kill_workers=True)
            raise
        failures += [(run, future.exception()) for future, run in futures.items() if future.exception()]
        if failures:
            raise StudyError(failures)
        if strangers := [run.path for run in missing if not run.finished]:
            raise RuntimeError(f"the executor's workers do not share this run store; not there: {strangers}")
        return self

    def _follow(self, pending: set[Future], missing: list[Run], progress: bool) -> None:
        """One bar over all epochs, read from the run store, until nothing is pending."""
        total = sum(run.config.epochs for run in self.runs)
        done = total - sum(run.config.epochs for run in missing)
        begun = done + sum(run.epoch for run in missing)
        with tqdm(
            total=total,
            initial=begun,
            desc=f"study {self.name}",
            unit="epoch",
            file=sys.stdout,
            disable=not progress,
        ) as bar:
            while pending:
                _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                latest = pd.concat([_last_row(run) for run in missing])
                bar.update(done + int(latest.get("epoch", pd.Series(dtype=int)).sum()) - bar.n)
                if len(latest):
                    bar.set_postfix_str(
                        f"return {_range(latest.episode_return)}, cost {_range(latest.episode_cost)}, "
                        f"λ {_range(latest.lagrangian_multiplier)}"
                    )

    @property
    def progress(self) -> pd.DataFrame:
        """Progress of all runs so far, with a column `run` that indexes `self.runs`."""
        return self._concatenated("progress")

    @property
    def episodes(self) -> pd.DataFrame:
        """Episodes of all runs so far, with a column `run` that indexes `self.runs`."""
        return self._concatenated("episodes")

    def _concatenated(self, name: str) -> pd.DataFrame:
        return pd.concat(
            [getattr(run, name).assign(run=index) for index, run in enumerate(self.runs)], ignore_index=True
        )


def _last_row(run: Run) -> pd.DataFrame:
    """The last row of progress; none before the first epoch, or where the checkpoint is damaged (its future tells)."""
    try:
        return run.progress.tail(1)
    except CorruptCheckpointError:
        return pd.DataFrame()


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f}…{high:.2f}"
