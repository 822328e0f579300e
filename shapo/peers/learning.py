"""Training: beside OmniSafe, on two cores beside one, and what sharpness costs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from shapo.algorithms.config import Config
from shapo.algorithms.trainer import Trainer
from shapo.envs import TASKS
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium
from shapo.peers import measuring
from shapo.peers.measuring import COLUMNS, CORES, TASK, alternate, run_apart, skipped
from shapo.runs.study import Study
from shapo.runs.train import one_thread
from shapo.sharpness import EuclideanSAM, FisherSAM

UNITS = {"steps": "steps/s", "rollout": "s/epoch", "update": "s/epoch", "study": "steps/s"}
VARIANTS = {
    "vanilla": {},
    "SHAPO Actor": {"actor": FisherSAM(0.001)},
    "SHAPO": {"actor": FisherSAM(0.001), "critic": EuclideanSAM(0.05)},
}


def _config(task: str, epochs: int, steps_per_epoch: int, **settings) -> Config:
    total = epochs * steps_per_epoch
    return Config(task, "PIDLag", total_steps=total, steps_per_epoch=steps_per_epoch, **settings)


def run_study(task: str, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: a study of two runs of PIDLag on the cores there are, one thread each.

    "steps" per second of all that train at once, and the seconds of an epoch, are by the runs' own clocks. "study",
    the steps per second of `Study.run`, counts all that a user waits for: processes that start and import,
    checkpoints, the slower run.
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
    """The same study on two cores and on one, from its start to its end."""
    probe = partial(partial, run_apart, run_study, task=task, epochs=epochs, steps_per_epoch=steps_per_epoch)
    sides = {"two cores": probe(cores=CORES), "one core": probe(cores=1)}
    return alternate("study", sides, repeats, UNITS, task)


def train_omnisafe(task: str, envs: int, torch_threads: int, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: what `run_study` measures, of OmniSafe's TRPOPID with `envs` vector environments, by its clock."""
    os.environ.update(WANDB_MODE="disabled", WANDB_ERROR_REPORTING="false")  # imported, never used
    import_safety_gymnasium()
    import omnisafe

    ours = _config(task, epochs, steps_per_epoch).resolved
    custom = {
        "algo_cfgs": {
            "steps_per_epoch": steps_per_epoch, "update_iters": ours.critic_passes,
            "batch_size": ours.minibatch_size, "cg_iters": ours.algorithm.cg_iterations,
            "target_kl": ours.algorithm.target_kl / TASKS[task].action_dim,
        },
        "lagrange_cfgs": {"cost_limit": ours.cost_limit},
        "logger_cfgs": {"use_wandb": False, "use_tensorboard": False, "log_dir": tempfile.mkdtemp(dir=".")},
    }  # fmt: skip
    terminal = {"vector_env_nums": envs, "torch_threads": torch_threads, "total_steps": ours.total_steps}
    wrapper = omnisafe.Agent(
        "TRPOPID", TASKS[task].reference, train_terminal_cfgs=terminal, custom_cfgs=custom
    )
    wrapper.agent.learn()  # wrapper.learn() would go on to build an evaluator and a plotter
    (table,) = Path().rglob("progress.csv")
    timing = pd.read_csv(table).filter(like="Time/").mean()
    return {
        "steps": steps_per_epoch / timing["Time/Epoch"],
        "rollout": timing["Time/Rollout"],
        "update": timing["Time/Update"],
        "note": f"vector environments: {envs}, torch threads: {torch_threads}",
    }


def _omnisafe_run(
    setting: tuple[int, int], epochs: int, steps_per_epoch: int, task: str
) -> Callable[[], dict]:
    envs, threads = setting
    return partial(
        run_apart, train_omnisafe, cores=CORES, threads=threads, task=task, envs=envs, torch_threads=threads,
        epochs=epochs, steps_per_epoch=steps_per_epoch,
    )  # fmt: skip


def best_omnisafe_setting(
    steps_per_epoch: int,
    envs: Sequence[int] = (1, 2, 5, 10),
    threads: Sequence[int] = (1, 2),
    task: str = TASK,
) -> tuple[tuple[int, int], pd.DataFrame]:
    """How OmniSafe uses two cores best: an epoch with each number of vector environments and torch threads.

    Returns the fastest (environments, threads), and the measurements.
    """
    settings = [(n, k) for n in envs for k in threads]
    if not measuring.is_installed("omnisafe"):
        return settings[0], skipped("omnisafe_settings", "steps", "OmniSafe", "steps/s", task=task)
    sides = {f"{n} × {k}": _omnisafe_run((n, k), 1, steps_per_epoch, task) for n, k in settings}
    rows = alternate("omnisafe_settings", sides, 1, UNITS, task).query("quantity == 'steps'")
    return settings[int(rows["value"].argmax())], rows


def training(
    repeats: int, epochs: int, steps_per_epoch: int, setting: tuple[int, int] = (5, 1), task: str = TASK
) -> pd.DataFrame:
    """Training steps per second on two cores with equal hyperparameters: two runs of ours, one of OmniSafe's.

    Neither side's start is counted. setting: OmniSafe's (vector environments, torch threads).
    """
    ours = partial(
        run_apart, run_study, cores=CORES, task=task, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    if measuring.is_installed("omnisafe"):
        sides = {"shapo": ours, "OmniSafe": _omnisafe_run(setting, epochs, steps_per_epoch, task)}
        return alternate("training", sides, repeats, UNITS, task)
    rows = alternate("training", {"shapo": ours}, repeats, UNITS, task)
    missing = skipped("training", "steps", "OmniSafe", "steps/s", task=task)
    return pd.concat([rows, missing], ignore_index=True)


def train_variants(task: str, repeats: int, steps_per_epoch: int) -> list[dict]:
    """Probe: the variants train side by side in one process, an epoch each in turn; what every epoch took."""
    trainers = {
        name: Trainer(_config(task, 1, steps_per_epoch, **chosen)) for name, chosen in VARIANTS.items()
    }
    rows = []
    with one_thread():
        for repeat in range(-1, repeats):  # the first round warms up
            for side in list(trainers)[:: -1 if repeat % 2 else 1]:
                products = trainers[side].run_epoch()["cg_products"]
                took = trainers[side].timing[-1] | {"conjugate gradient": products}
                rows += [{"quantity": q, "side": side, "repeat": repeat, "value": v} for q, v in took.items()]
    return [row for row in rows if row["repeat"] >= 0]


def epochs(repeats: int, steps_per_epoch: int, task: str = TASK) -> pd.DataFrame:
    """An epoch of each variant on one core: seconds of rollout, actor, critics; products with F."""
    rows = pd.DataFrame(
        run_apart(train_variants, task=task, repeats=repeats, steps_per_epoch=steps_per_epoch)
    )
    unit = np.where(rows["quantity"] == "conjugate gradient", "products/epoch", "s/epoch")
    note = f"steps an epoch: {steps_per_epoch}"
    return rows.assign(benchmark="epochs", task=task, unit=unit, note=note)[COLUMNS]
