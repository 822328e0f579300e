"""Study: many runs together, on all cores or many machines; what is there is not run again, what broke is listed."""

from __future__ import annotations

import functools
import sys
import uuid
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from shapo.runs.durations import seconds_per_step, spoken
from shapo.runs.identity import RunConfig
from shapo.runs.outcomes import attempt, available, problem, unrecorded
from shapo.runs.run import Run
from shapo.runs.settings import settings
from shapo.runs.store import CorruptCheckpointError
from shapo.runs.train import NOT_THE_RUNS_FAULT, failure
from shapo.runs.workers import OneProcessPerCore

STATES = ("finished", "shipped", "failed", "partial", "not begun")


class StudyError(RuntimeError):
    """Some runs of a study failed; the others are done. `failures`: as `Study.failures`."""

    def __init__(self, study: Study):
        self.failures = study.failures
        lines = [f"{len(self.failures)} of the study's runs failed; the others are done."]
        for row in self.failures.to_dict("records"):
            which = ", ".join(f"{name} {row[name]}" for name in study.settings)
            when = (
                "the next run() tries it again"
                if row["again"]
                else "only run(retry_failed=True) tries it again"
            )
            lines += [
                f"  {which}, after {row['epoch']} epochs ({when}):",
                f"    {row['error']}",
                f"    {row['path']}",
            ]
        super().__init__("\n".join(lines))


class Study:
    """A set of runs under a name.

    configs: what to run; equal configs are one run. runs: folder of the run store.
    """

    def __init__(self, name: str, configs: Sequence[RunConfig], runs: str | Path | None = None):
        if not configs:
            raise ValueError("configs must hold at least one Config; got none")
        self.name = name
        self.runs = [Run(config, runs) for config in {config.run_id: config for config in configs}.values()]
        self._unrecorded: dict[Run, str] = {}  # errors in the last `run()` that no run's folder records

    def run(
        self, executor: Executor | None = None, progress: bool = True, retry_failed: bool = False
    ) -> Study:
        """Trains what is missing, resumes what was cut off, skips what is there or failed before.

        executor: any `concurrent.futures.Executor`, Dask's `client.get_executor()` for one (`workers` tells how on
        SLURM); None for a process per core. Each run takes one thread, wherever it runs, and gives the same bytes.
        progress: show a bar. retry_failed: try also what `failures` lists as not to be tried again.

        A run that fails does not stop the others. StudyError, at the end, lists those that did: an error of the run's
        own is recorded in its folder and tried again only with retry_failed; a full disk, a damaged checkpoint, a
        worker that died three times are not the run's fault, and the next `run()` tries again by itself.
        """
        missing, self._unrecorded = self.missing, {}
        asked = [run for run in missing if retry_failed or not failure(run)]
        own = OneProcessPerCore(min(joblib.cpu_count(), len(asked))) if executor is None and asked else None
        executor = own if executor is None else executor
        futures: dict[Future, Run] = {}
        try:
            for run in asked:
                futures[executor.submit(attempt, run.config, run.path, uuid.uuid4().hex)] = run
            self._follow(set(futures), missing, progress)
        finally:
            for future in futures:
                future.cancel()
            if own:
                own.shutdown(cancel_futures=True)
        self._unrecorded = unrecorded(futures)
        if len(self.failures):
            raise StudyError(self)
        return self

    def _follow(self, pending: set[Future], missing: list[Run], progress: bool) -> None:
        """One bar over all epochs, read from the run store, until nothing is pending."""
        rows: dict[Run, tuple[int, dict]] = {}  # version of the checkpoint, and its last row of progress
        for run in missing:
            _look(run, rows)
        total = sum(run.config.epochs for run in self.runs)
        done = total - sum(run.config.epochs for run in missing)
        with tqdm(
            total=total,
            initial=done + sum(row.get("epoch", 0) for _, row in rows.values()),
            desc=f"study {self.name}",
            unit="epoch",
            file=sys.stdout,
            disable=not progress,
        ) as bar:
            while pending:
                _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                changed = [run for run in missing if _look(run, rows)]
                latest = pd.DataFrame([row for _, row in rows.values() if row])
                if changed and len(latest):
                    bar.update(done + int(latest.epoch.sum()) - bar.n)
                    shown = {label: column for run in missing for label, column in run.config.shown.items()}
                    bar.set_postfix_str(
                        ", ".join(f"{label} {_range(latest[column])}" for label, column in shown.items())
                    )

    @property
    def missing(self) -> list[Run]:
        """The runs that are neither finished in the run store nor shipped; damaged ones among them."""
        return [run for run in self.runs if not available(run)]

    @functools.cached_property
    def settings(self) -> pd.DataFrame:
        """A row per run, indexed as `self.runs`: task, algorithm, what else differs among them, seed."""
        return settings([run.config for run in self.runs])

    @property
    def failures(self) -> pd.DataFrame:
        """A row per run that failed: run (index into `self.runs`), its settings, epoch, error, path.

        again: whether `run()` tries it again without being asked. Each path holds an error.json with the traceback.
        """
        rows = [
            {"run": index, **self.settings.loc[index], **found, "path": str(run.path)}
            for index, run in enumerate(self.runs)
            if (found := problem(run, self._unrecorded))
        ]
        return pd.DataFrame(rows, columns=["run", *self.settings, "epoch", "error", "again", "path"])

    def status(self) -> pd.DataFrame:
        """A row per group of settings, seeds together: how many runs there are, and how many in which of STATES.

        core_hours: about what the missing ones take on one core of this machine, failed ones included, by the timing of
        the most similar runs in this store; where there are none, of the shipped benchmarks; NaN where unknown.
        """
        outlook, groups = self._outlook(), [name for name in self.settings if name != "seed"]
        counts = {state: outlook.state == state for state in STATES}
        table = self.settings[groups].assign(runs=1, **counts, core_hours=outlook.seconds / 3600)
        sums = table.groupby(groups, sort=False).agg(lambda values: values.sum(skipna=False))
        return sums.astype({name: int for name in ("runs", *STATES)}).reset_index()

    def _outlook(self) -> pd.DataFrame:
        """A row per run: its state, and the seconds of one core that it still needs."""
        rows, memory = [], {}
        for run in self.runs:
            if available(run):
                rows.append(("finished" if run.finished else "shipped", 0.0))
                continue
            failed = problem(run, self._unrecorded)
            epoch = failed["epoch"] if failed else run.epoch
            steps = (run.config.epochs - epoch) * run.config.steps_per_epoch
            state = "failed" if failed else "partial" if epoch else "not begun"
            rows.append((state, steps * seconds_per_step(run.config, run.folder, memory)))
        return pd.DataFrame(rows, columns=["state", "seconds"])

    def __str__(self) -> str:
        outlook = self._outlook()
        missing = outlook[~outlook.state.isin(("finished", "shipped"))]
        said = f"{len(outlook) - len(missing)} of {len(outlook)} runs are there"
        if len(missing):
            cores = min(joblib.cpu_count(), len(missing))
            seconds = np.maximum(missing.seconds.sum(skipna=False) / cores, missing.seconds.max(skipna=False))
            said += f"; the other {len(missing)} would take {spoken(seconds)} on {cores} cores"
        failed = (outlook.state == "failed").sum()
        return said + (f"; {failed} failed, see .failures" if failed else "")

    def __repr__(self) -> str:
        return f"<Study {self.name}: {self}>"

    @property
    def progress(self) -> pd.DataFrame:
        """Progress of all runs so far: `Run.progress` after the columns run (index into `self.runs`), task, algorithm,
        seed. Damaged runs are left out, with a warning.
        """
        return self._concatenated("progress")

    @property
    def episodes(self) -> pd.DataFrame:
        """Episodes of all runs so far, with the same columns before `Run.episodes`."""
        return self._concatenated("episodes")

    def _concatenated(self, name: str) -> pd.DataFrame:
        tables = {}
        for index, run in enumerate(self.runs):
            try:
                tables[index] = getattr(run, name)
            except (CorruptCheckpointError, OSError) as error:
                warnings.warn(f"left out of {name}: {error}", stacklevel=3)
        begun = {index: table for index, table in tables.items() if len(table)} or tables
        labels = self.settings[["task", "algorithm"]].astype("category").assign(seed=self.settings.seed)
        rows = np.repeat(np.array(list(begun), int), [len(table) for table in begun.values()])
        labels = labels.rename_axis("run").reset_index().iloc[rows].reset_index(drop=True)
        return pd.concat([labels, *([pd.concat(begun.values(), ignore_index=True)] if begun else [])], axis=1)


def _look(run: Run, rows: dict[Run, tuple[int, dict]]) -> bool:
    """Reads the run's last row of progress if its checkpoint changed; whether it did."""
    try:
        version = run.checkpoint.stat().st_mtime_ns
        if run in rows and rows[run][0] == version:
            return False
        rows[run] = version, *(run.progress.tail(1).to_dict("records") or [{}])
    except NOT_THE_RUNS_FAULT:  # none yet; or damaged, which its future tells
        return False
    return True


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f}…{high:.2f}"
