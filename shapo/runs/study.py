"""Study: many runs together, on all cores or many machines; available runs are skipped, and failed ones are listed."""

from __future__ import annotations

import functools
import sys
import time
import uuid
import warnings
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import FunctionType

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from shapo.runs.code import code_hash
from shapo.runs.identity import RunConfig
from shapo.runs.run import Run
from shapo.runs.shipped import packs
from shapo.runs.store import CorruptCheckpointError, load_checkpoint, unpack_tables
from shapo.runs.train import NOT_THE_RUNS_FAULT, checked_config, failure
from shapo.runs.workers import OneProcessPerCore, attempt

STATES = ("finished", "shipped", "failed", "partial", "not begun")
# What a notebook shows in place of a figure without runs.
NOTHING_YET = "**Nothing is there yet** to draw, in `runs/` or in `figures/data/`: set `train = True`."
PATIENCE = 60.0  # seconds: a shared file system may show what another node wrote that much later


class StudyError(RuntimeError):
    """The error that some runs of a study failed and the others are done. `failures` is the table `Study.failures`."""

    def __init__(self, study: Study):
        self.failures = study.failures
        lines = [f"{len(self.failures)} of the study's runs failed; the others are done."]
        for row in self.failures.to_dict("records"):
            which = ", ".join(f"{name} {row[name]}" for name in study.settings)
            again = "the next run()" if row["again"] else "only run(retry_failed=True)"
            lines.append(f"  {which}, after {row['epoch']} epochs ({again} tries it again):")
            lines += [f"    {row['error']}", f"    {row['path']}"]
        super().__init__("\n".join(lines))


class Study:
    """A set of runs under a name.

    configs: what to run; equal configs are one run. runs: folder of the run store.
    """

    def __init__(self, name: str, configs: Iterable[RunConfig], runs: str | Path | None = None):
        if not isinstance(name, str):
            raise TypeError(f"name must be a name such as 'mine'; got {name!r}")
        if not isinstance(configs, Iterable):
            raise TypeError(f"configs must be a list of configs, such as [config]; got {configs!r}")
        configs = [checked_config(f"configs[{index}]", config) for index, config in enumerate(configs)]
        if not configs:
            raise ValueError("configs must hold at least one Config; got none")
        self.name = name
        self.runs = [Run(config, runs) for config in {config.run_id: config for config in configs}.values()]
        self._unrecorded: dict[Run, str] = {}  # errors in the last `run()` that no run's folder records

    def run(
        self, executor: Executor | None = None, progress: bool = True, retry_failed: bool = False
    ) -> Study:
        """Trains the missing runs and resumes interrupted ones; skips those that are available or failed before.

        executor: any `concurrent.futures.Executor`, such as Dask's `client.get_executor()` (`workers` shows how on
        SLURM); None for a process per core. Each run takes one thread and gives the same bytes wherever it runs. Within
        a process, one thread trains at a time.
        progress: whether to show a bar. retry_failed: whether to also try runs that `failures` marks as not `again`.

        A run that fails does not stop the others; StudyError, at the end, lists the failed ones. An error of the run's
        own is recorded in its folder, and the run is tried again only with retry_failed. A full disk, a damaged
        checkpoint or a worker that died three times is not the run's fault, and the next `run()` tries it again.
        """
        if not (executor is None or isinstance(executor, Executor)):
            wanted = "None or a concurrent.futures.Executor, such as client.get_executor() of a Dask client"
            raise TypeError(f"executor must be {wanted}; got {executor!r}")
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
        deadline = time.monotonic() + PATIENCE
        said = {run: _unrecorded(future, run, deadline) for future, run in futures.items()}
        self._unrecorded = {run: problem for run, problem in said.items() if problem}
        if len(self.failures):
            raise StudyError(self)
        return self

    def _follow(self, pending: set[Future], missing: list[Run], progress: bool) -> None:
        """Shows one bar over all epochs, read from the run store, until no future is pending."""
        rows: dict[Run, tuple[int, dict]] = {}  # version of the checkpoint, and its last row of progress
        for run in missing:
            _reread(run, rows)
        total = sum(run.config.epochs for run in self.runs)
        done = total - sum(run.config.epochs for run in missing)
        initial = done + sum(row.get("epoch", 0) for _, row in rows.values())
        options = {"desc": f"study {self.name}", "unit": "epoch", "disable": not progress}
        with tqdm(
            total=total, initial=initial, postfix="the workers start", file=sys.stdout, **options
        ) as bar:
            while pending:
                _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                changed = [run for run in missing if _reread(run, rows)]
                latest = pd.DataFrame([row for _, row in rows.values() if row])
                if changed and len(latest):
                    bar.update(done + int(latest.epoch.sum()) - bar.n)
                    shown = {label: column for run in missing for label, column in run.config.shown.items()}
                    low, high = latest.min(), latest.max()
                    ranges = (f"{label} {low[c]:.2f}…{high[c]:.2f}" for label, c in shown.items() if c in low)
                    bar.set_postfix_str(", ".join(ranges))

    @property
    def missing(self) -> list[Run]:
        """The runs that are neither finished in the run store nor shipped; damaged runs are among them."""
        return [run for run in self.runs if not _available(run)]

    @functools.cached_property
    def settings(self) -> pd.DataFrame:
        """A row per run, indexed as `self.runs`: task, algorithm, the other settings that differ among runs, seed."""
        configs = [run.config for run in self.runs]
        names = dict.fromkeys(field.name for config in configs for field in fields(config))
        table = pd.DataFrame({name: [_spelled(getattr(c, name, None)) for c in configs] for name in names})
        name = pd.Series([str(config.task) for config in configs])  # several tasks of the user may share it
        table["task"] = name.where(table.task.groupby(name).transform("nunique") == 1, table.task)
        others = table.drop(columns=["task", "algorithm", "seed"])
        return table[["task", "algorithm", *others.columns[others.nunique() > 1], "seed"]]

    @property
    def failures(self) -> pd.DataFrame:
        """A row per run that failed: run (index into `self.runs`), its settings, epoch, error, path.

        again: whether the next `run()` tries it again by itself; if not, its path has an error.json with the traceback.
        """
        rows = [
            {"run": index, **self.settings.loc[index], **found, "path": str(run.path)}
            for index, run in enumerate(self.runs)
            if (found := self._problem(run))
        ]
        return pd.DataFrame(rows, columns=["run", *self.settings, "epoch", "error", "again", "path"])

    def _problem(self, run: Run) -> dict | None:
        """Returns epoch, error and again, as in `failures`, of a run that failed; None for other runs."""
        if _available(run):
            return None
        try:
            epoch = run.epoch
        except NOT_THE_RUNS_FAULT as error:
            return {"epoch": 0, "error": f"{type(error).__name__}: {error}", "again": True}
        if run in self._unrecorded:
            return {"epoch": epoch, "error": self._unrecorded[run], "again": True}
        if record := failure(run):
            return {"epoch": epoch, "error": f"{record['type']}: {record['message']}", "again": False}
        return None

    def status(self) -> pd.DataFrame:
        """Returns a row per group of settings, seeds together: the number of runs, in all and in each of STATES.

        core_hours: estimated time of the missing runs, failed ones included, on one core. It follows the median of this
        study's runs of the same settings, else of the same task, else of the task's newest runs in this store, else of
        shipped ones; NaN if none was ever timed.
        """
        outlook, groups = self._outlook(), [name for name in self.settings if name != "seed"]
        counts = {state: outlook.state == state for state in STATES}
        table = self.settings[groups].assign(runs=1, **counts, core_hours=outlook.seconds / 3600)
        sums = table.groupby(groups, sort=False).agg(lambda values: values.sum(skipna=False))
        return sums.astype({name: int for name in ("runs", *STATES)}).reset_index()

    def _outlook(self) -> pd.DataFrame:
        """Returns a row per run: its state, and the seconds of one core that it still needs."""
        rows = []
        for run in self.runs:
            if _available(run):
                rows.append(("finished" if run.finished else "shipped", 0, _pace(run)))
                continue
            failed = self._problem(run)
            epoch = failed["epoch"] if failed else run.epoch
            left = (run.config.epochs - epoch) * run.config.steps_per_epoch
            state = "failed" if failed else "partial" if epoch else "not begun"
            rows.append((state, left, _pace(run) if epoch else np.nan))
        table = self.settings.join(pd.DataFrame(rows, columns=["state", "left", "pace"]))
        groups = [name for name in self.settings if name not in ("seed", "total_steps", "iterations")]
        pace = table.groupby(groups, sort=False).pace.transform("median")
        pace = pace.fillna(table.groupby("task").pace.transform("median"))
        for task in table.task[(table.left > 0) & pace.isna()].unique():
            pace[table.task == task] = _pace_elsewhere(task, self.runs[0].folder)
        return table.assign(seconds=np.where(table.left > 0, table.left * pace, 0.0))[["state", "seconds"]]

    def __str__(self) -> str:
        outlook = self._outlook()
        missing = outlook[~outlook.state.isin(("finished", "shipped"))]
        said = f"{len(outlook) - len(missing)} of {len(outlook)} runs are there"
        if len(missing):
            cores = min(joblib.cpu_count(), len(missing))
            seconds = max(missing.seconds.sum(skipna=False) / cores, missing.seconds.max())  # NaN if any is
            how_long = "an unknown time" if np.isnan(seconds) else f"about {tqdm.format_interval(seconds)}"
            said += f"; the other {len(missing)} would take {how_long} on {cores} cores"
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
        """Episodes of all runs so far: `Run.episodes` after the same columns as in `progress`."""
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


def _spelled(value: object) -> object:
    """Returns a number as it is, else text; for a dataclass, its name and those fields that differ from the default."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type | FunctionType):
        return f"{value.__name__} {code_hash(value)[:6]}"  # several may have one name
    if not is_dataclass(value):
        return "none" if value is None else str(value)
    told = [
        f"{f.name}={_spelled(getattr(value, f.name))}"
        for f in fields(value)
        if f.default is MISSING or getattr(value, f.name) != f.default
    ]
    return type(value).__name__ + (f"({', '.join(told)})" if told else "")


def _unrecorded(future: Future, run: Run, deadline: float) -> str | None:
    """Returns what went wrong with a run that is no longer tried, if its folder does not say it; else None."""
    if future.cancelled():
        return "its executor cancelled it"
    if error := future.exception():
        return f"{type(error).__name__}: {error}"
    while not (arrived := _available(run) or failure(run) is not None) and time.monotonic() < deadline:
        time.sleep(0.2)
    return None if arrived else "what it trained is not here: its workers do not share this run store"


def _available(run: Run) -> bool:
    """Whether the results of a run are there; those of a damaged run are not."""
    try:
        return run.available
    except NOT_THE_RUNS_FAULT:  # its checkpoint is damaged, or may not be read
        return False


def _reread(run: Run, rows: dict[Run, tuple[int, dict]]) -> bool:
    """Reads the run's last row of progress if its checkpoint changed; returns whether it did."""
    try:
        version = run.checkpoint.stat().st_mtime_ns
        if run in rows and rows[run][0] == version:
            return False
        rows[run] = version, *(run.progress.tail(1).to_dict("records") or [{}])
    except NOT_THE_RUNS_FAULT:  # no checkpoint yet, or a damaged one, which its future reports
        return False
    return True


def _pace(run: Run) -> float:
    """Returns the seconds per environment step of a run; NaN if it was not timed or is damaged."""
    with suppress(*NOT_THE_RUNS_FAULT):
        return float(run.timing.total.median()) / run.config.steps_per_epoch
    return np.nan


def _pace_elsewhere(task: str, folder: Path) -> float:
    """Returns the median pace of a task's newest runs in the store, else of shipped ones, of any settings, or NaN."""
    newest = sorted((folder / task).glob("*/checkpoint"), key=lambda path: path.stat().st_mtime)[-9:]
    paces = []
    for path in newest:
        with suppress(*NOT_THE_RUNS_FAULT, AttributeError, IndexError):  # damaged, or before its first epoch
            tables = unpack_tables(load_checkpoint(path)[0])
            paces.append(tables["timing"].total.median() / tables["progress"].steps.iloc[0])
    if not paces:
        shipped = [(pack, row) for pack in packs() for row in pack.runs[pack.runs.task == task].itertuples()]
        paces = [row.total / pack.table("progress", row.Index).steps.iloc[0] for pack, row in shipped[-9:]]
    return float(np.median(paces)) if paces else np.nan
