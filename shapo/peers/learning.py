"""Training: against OmniSafe, on two cores against one, and what sharpness costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import joblib
import numpy as np
import pandas as pd

from shapo.algorithms.config import Config
from shapo.algorithms.trainer import Trainer
from shapo.envs import TASKS
from shapo.experiments.safety import variants
from shapo.peers import measuring, omnisafe
from shapo.peers.measuring import COLUMNS, CORES, INSTALL_PEERS, TASK, alternate, run_apart, with_skipped
from shapo.runs.study import Study
from shapo.runs.train import one_thread

UNITS = {"steps": "steps/s", "rollout": "s/epoch", "update": "s/epoch", "study": "steps/s"}
VARIANTS = {name: variants(TASK)[name] for name in ("vanilla", "SHAPO Actor", "SHAPO")}


def _config(task: str, epochs: int, steps_per_epoch: int, **settings) -> Config:
    total = epochs * steps_per_epoch
    return Config(task, "PIDLag", total_steps=total, steps_per_epoch=steps_per_epoch, **settings)


def run_study(task: str, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: a study of two runs of PIDLag on the cores of the process, one thread each.

    "steps", the steps per second of all runs that train at once, and the seconds of an epoch come from the runs' own
    clocks. "study", the steps per second of `Study.run`, includes all that a user waits for: the start and imports of
    processes, checkpoints, and the slower run.
    """
    configs = [_config(task, epochs, steps_per_epoch, seed=seed) for seed in range(CORES)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        study = Study("benchmark", configs, runs=folder)
        study.run(progress=False)
        seconds = time.perf_counter() - start
        timing = pd.concat([run.timing for run in study.runs]).mean()
    at_once = min(joblib.cpu_count(), len(configs))
    return {
        "steps": at_once * steps_per_epoch / timing["total"],
        "rollout": timing["rollout"],
        "update": timing["total"] - timing["rollout"],
        "study": len(configs) * epochs * steps_per_epoch / seconds,
        "note": f"{len(configs)} runs of {epochs * steps_per_epoch} steps, {at_once} at once, one thread each",
    }


def study(repeats: int, epochs: int, steps_per_epoch: int, task: str = TASK) -> pd.DataFrame:
    """The speed of the same study on two cores and on one, from its start to its end."""
    probe = partial(partial, run_apart, run_study, task=task, epochs=epochs, steps_per_epoch=steps_per_epoch)
    sides = {"two cores": probe(cores=CORES), "one core": probe(cores=1)}
    return alternate("study", sides, repeats, UNITS, task)


def train_omnisafe(task: str, envs: int, torch_threads: int, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: the steps, rollout and update of `run_study`, for OmniSafe's TRPOPID by its own clock."""
    config = _config(task, epochs, steps_per_epoch).resolved
    with omnisafe.agent_for(config, TASKS[task].reference, envs, torch_threads) as (agent, folder):
        agent.learn()
        timing = omnisafe.progress(folder).filter(like="Time/").mean()
    return {
        "steps": steps_per_epoch / timing["Time/Epoch"],
        "rollout": timing["Time/Rollout"],
        "update": timing["Time/Update"],
        "note": f"vector environments: {envs}, torch threads: {torch_threads}",
    }


def _omnisafe_run(setting: tuple[int, int], **settings) -> Callable[[], dict]:
    envs, threads = setting
    settings |= {"envs": envs, "torch_threads": threads}
    return partial(run_apart, train_omnisafe, cores=CORES, threads=threads, **settings)


def best_omnisafe_setting(
    steps_per_epoch: int, envs: Sequence[int] = (1, 2, 5, 10), threads: Sequence[int] = (1, 2), task: str = TASK
) -> tuple[tuple[int, int], pd.DataFrame]:  # fmt: skip
    """Measures an epoch of OmniSafe on two cores with each number of vector environments and torch threads.

    Returns the fastest (environments, threads), and the measurements.
    """
    settings = [(n, k) for n in envs for k in threads]
    if not measuring.is_installed("omnisafe"):
        skipped = ("omnisafe_settings", task, "steps", "OmniSafe", 0, np.nan, "steps/s", INSTALL_PEERS)
        return settings[0], pd.DataFrame([skipped], columns=COLUMNS)
    one = {"task": task, "epochs": 1, "steps_per_epoch": steps_per_epoch}
    sides = {f"{n} × {k}": _omnisafe_run((n, k), **one) for n, k in settings}
    rows = alternate("omnisafe_settings", sides, 1, UNITS, task).query("quantity == 'steps'")
    return settings[int(rows["value"].argmax())], rows


def training(
    repeats: int, epochs: int, steps_per_epoch: int, setting: tuple[int, int] = (5, 1), task: str = TASK
) -> pd.DataFrame:
    """Training steps per second on two cores with equal hyperparameters: two runs of ours, one of OmniSafe's.

    Neither side's start is counted. setting: OmniSafe's (vector environments, torch threads).
    """
    settings = {"task": task, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
    sides = {"shapo": partial(run_apart, run_study, cores=CORES, **settings)}
    if measuring.is_installed("omnisafe"):
        sides["OmniSafe"] = _omnisafe_run(setting, **settings)
    return with_skipped(alternate("training", sides, repeats, UNITS, task), ["OmniSafe"])


def train_variants(task: str, repeats: int, steps_per_epoch: int) -> list[dict]:
    """Probe: trains the variants in one process, an epoch each in turn, and returns what every epoch took."""
    trainers = {name: Trainer(_config(task, 1, steps_per_epoch, **way)) for name, way in VARIANTS.items()}
    rows = []
    with one_thread():
        for repeat in range(-1, repeats):  # the first round warms up
            for side in list(trainers)[:: -1 if repeat % 2 else 1]:
                products = trainers[side].run_epoch()["cg_products"]
                took = trainers[side].timing[-1] | {"conjugate gradient": products}
                rows += [{"quantity": q, "side": side, "repeat": repeat, "value": v} for q, v in took.items()]
    return [row for row in rows if row["repeat"] >= 0]


def epochs(repeats: int, steps_per_epoch: int, task: str = TASK) -> pd.DataFrame:
    """An epoch of each variant on one core: seconds of rollout, actor and critics, and the products with F."""
    settings = {"task": task, "repeats": repeats, "steps_per_epoch": steps_per_epoch}
    rows = pd.DataFrame(run_apart(train_variants, **settings))
    unit = np.where(rows["quantity"] == "conjugate gradient", "products/epoch", "s/epoch")
    note = f"steps an epoch: {steps_per_epoch}"
    return rows.assign(benchmark="epochs", task=task, unit=unit, note=note)[COLUMNS]
