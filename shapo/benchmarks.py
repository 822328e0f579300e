"""Speed and memory beside the peers: safety_gymnasium, OmniSafe, bare MuJoCo, and plain autograd.

A *probe* measures one thing once, in a process of its own, so that memory, threads and cores are what they
say. A *benchmark* measures its sides in turn, repeat by repeat, and returns a tidy table:

| column    | description                                                            |
|-----------|------------------------------------------------------------------------|
| benchmark | name of the benchmark function                                         |
| quantity  | what was measured: "steps", "rollout", ...                             |
| side      | whose it is: "shapo", "OmniSafe", ...                                  |
| repeat    | 0, 1, ...; those of one number were taken right after each other       |
| value     | NaN where a side was skipped                                           |
| unit      | of the value                                                           |
| note      | the setting, or why a side was skipped and how to install it           |

`compare` turns measurements into ratios with their spread and the target each has to reach.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch import nn
from tqdm import tqdm

from shapo.config import Config
from shapo.critics import Critics
from shapo.envs import TASKS, bare_loop, make_env
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium
from shapo.fisher import GaussianFisher, conjugate_gradient, kl_hessian_product
from shapo.networks import GaussianActor
from shapo.notebooks import ONE_THREAD, ROOT
from shapo.run import provenance
from shapo.sharpness import EuclideanSAM, FisherSAM
from shapo.store import write_atomically
from shapo.training import Trainer, one_thread, train

TASK = "PointGoal1-v0"
CORES = 2  # what every side has at most
INSTALL_PEERS = "skipped: install with ./run_all.sh setup --peers"
COLUMNS = ["benchmark", "quantity", "side", "repeat", "value", "unit", "note"]
VARIANTS = {
    "vanilla": {},
    "SHAPO Actor": {"actor": FisherSAM(0.001)},
    "SHAPO": {"actor": FisherSAM(0.001), "critic": EuclideanSAM(0.05)},
}

# --- measuring ---


class ProbeError(RuntimeError):
    """A probe failed in its process; the message ends with what it wrote to stderr."""


def run_apart(
    probe: Callable, *, cores: int = 1, threads: int = 1, timeout: float = 1200, **arguments
) -> Any:
    """What `probe(**arguments)` returns in a fresh process on `cores` cores with `threads` numerical threads.

    It writes nothing to the terminal or the working directory, and whatever it starts ends with it.
    probe: a function of this module. arguments: JSON-able, as is what it returns. timeout: seconds.
    Raises ProbeError when the probe fails, subprocess.TimeoutExpired when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="shapo-benchmark-") as folder:
        result, errors = Path(folder, "result.json"), Path(folder, "stderr")
        call = [probe.__name__, json.dumps(arguments), str(cores), str(result)]
        environment = os.environ | dict.fromkeys(ONE_THREAD, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "shapo.benchmarks", *call], cwd=folder, env=environment,
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


def _answer(name: str, arguments: str, cores: str, result: str) -> None:
    """The other end of `run_apart`."""
    if hasattr(os, "sched_setaffinity"):  # elsewhere (macOS) the system places us as it likes
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    Path(result).write_text(json.dumps(globals()[name](**json.loads(arguments))))


def alternate(
    benchmark: str, sides: Mapping[str, Callable[[], dict]], repeats: int, units: Mapping[str, str] | str
) -> pd.DataFrame:
    """Measures all sides `repeats` times, in turn and every other round in reverse: a drift hits all alike.

    A side returns its values by the name of the quantity, and may add a "note". units: of each quantity or of
    all.
    """
    rows = []
    with tqdm(total=repeats * len(sides), desc=benchmark, unit="probe", file=sys.stdout) as bar:
        for repeat in range(repeats):
            for side in list(sides)[:: -1 if repeat % 2 else 1]:
                values = sides[side]()
                note = values.pop("note", "")
                for quantity, value in values.items():
                    unit = units if isinstance(units, str) else units[quantity]
                    rows.append((benchmark, quantity, side, repeat, value, unit, note))
                bar.update()
    return pd.DataFrame(rows, columns=COLUMNS)


def skipped(benchmark: str, quantity: str, side: str, unit: str, why: str = INSTALL_PEERS) -> pd.DataFrame:
    """The row of a side that was not measured."""
    return pd.DataFrame([(benchmark, quantity, side, 0, np.nan, unit, why)], columns=COLUMNS)


def omnisafe_is_installed() -> bool:
    """Whether the optional peer is there, found out without importing it."""
    return importlib.util.find_spec("omnisafe") is not None


# --- environments ---


def _make(side: str, num_envs: int) -> Any:
    """`num_envs` environments of a side, reset: ours, safety_gymnasium's asynchronous ones, or its single."""
    if side.startswith("shapo"):
        env = make_env(TASK, num_envs=num_envs, threads=CORES if side == "shapo, two cores" else 1)
    elif side == "safety_gymnasium async":
        env = import_safety_gymnasium().vector.make(TASKS[TASK].reference, num_envs=num_envs)
    else:
        env = import_safety_gymnasium().make(TASKS[TASK].reference, autoreset=True)
    env.reset(seed=0)
    return env


def _actions(steps: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *shape))


def run_env(side: str, num_envs: int, steps: int, resets: int) -> dict:
    """Probe: steps per second, with steps ≥ 1000 of whole episodes; milliseconds of one reset."""
    env = _make(side, num_envs)
    actions = _actions(steps, env.action_space.shape)
    for action in actions[:20]:
        env.step(action)
    start = time.perf_counter()
    for _ in range(resets):
        env.reset()
    reset_ms = 1e3 * (time.perf_counter() - start) / (resets * num_envs)
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    rate = steps * num_envs / (time.perf_counter() - start)
    env.close()
    return {"steps": rate, "reset": reset_ms, "note": f"environments: {num_envs}"}


def environments(
    repeats: int, steps: int, resets: int, num_envs: int = 20, their_envs: int = 10
) -> pd.DataFrame:
    """Steps per second, and resets: ours on one core and on two, safety_gymnasium's single and async."""
    probe = partial(partial, run_apart, run_env, steps=steps, resets=resets)
    sides = {
        "shapo": probe(side="shapo", num_envs=num_envs),
        "shapo, two cores": probe(side="shapo, two cores", num_envs=num_envs, cores=CORES),
        "safety_gymnasium": probe(side="safety_gymnasium", num_envs=1),
        "safety_gymnasium async": probe(side="safety_gymnasium async", num_envs=their_envs, cores=CORES),
    }
    return alternate("environments", sides, repeats, {"steps": "steps/s", "reset": "ms"})


def step_physics(num_envs: int, steps: int) -> dict:
    """Probe: control steps per second of our environment, and of bare MuJoCo on copies of its worlds."""
    env = _make("shapo", num_envs)
    actions = _actions(steps, env.action_space.shape)
    seconds = {"shapo": 0.0, "bare MuJoCo": 0.0}
    for side in ("shapo", "bare MuJoCo", "bare MuJoCo", "shapo"):
        env.reset(seed=0)
        bare_loop(env.physics, actions[:20])  # warms the caches; it leaves our worlds alone
        start = time.perf_counter()
        if side == "shapo":
            for action in actions:
                env.step(action)
        else:
            bare_loop(env.physics, actions)
        seconds[side] += time.perf_counter() - start
    return {side: 2 * steps * num_envs / value for side, value in seconds.items()}


def physics(repeats: int, steps: int, num_envs: int = 20) -> pd.DataFrame:
    """Our steps per second beside a loop of `mj_step(nstep=10)` + `mj_forward`: one core, one process."""
    probe = partial(run_apart, step_physics, num_envs=num_envs, steps=steps)
    return _two_in_one(alternate("physics", {"steps": probe}, repeats, "steps/s"))


def _two_in_one(rows: pd.DataFrame) -> pd.DataFrame:
    """For probes that measure all sides themselves and return values by side: swaps the two columns."""
    return rows.rename(columns={"side": "quantity", "quantity": "side"})[COLUMNS]


def fill_memory(side: str, num_envs: int) -> dict:
    """Probe: MB of resident memory that environments add to a process in which all is imported."""
    import_safety_gymnasium()
    process = psutil.Process()
    before = process.memory_info().rss
    envs = [_make(side, num_envs)] if side == "shapo" else [_make(side, 1) for _ in range(num_envs)]
    added = process.memory_info().rss - before
    del envs
    return {"memory": added / 1e6, "note": f"environments: {num_envs}"}


def memory(repeats: int, num_envs: int = 20) -> pd.DataFrame:
    """Memory of environments in one process. Theirs takes 0.2 GB each; skipped where that is not free."""
    free, needed = psutil.virtual_memory().available / 1e9, 0.25 * num_envs
    sides = ["shapo", "safety_gymnasium"][: 2 if free > needed else 1]
    probes = {side: partial(run_apart, fill_memory, side=side, num_envs=num_envs) for side in sides}
    rows = alternate("memory", probes, repeats, "MB")
    if free > needed:
        return rows
    why = f"skipped: {needed:.0f} GB of memory must be free, {free:.0f} GB are"
    return pd.concat([rows, skipped("memory", "memory", "safety_gymnasium", "MB", why)], ignore_index=True)


# --- training ---

UNITS = {"steps": "steps/s", "rollout": "s/epoch", "update": "s/epoch"}


def _config(epochs: int, steps_per_epoch: int, **settings) -> Config:
    total = epochs * steps_per_epoch
    return Config(TASK, "PIDLag", total_steps=total, steps_per_epoch=steps_per_epoch, **settings)


def train_shapo(seed: int, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: training steps per second of one run of PIDLag; seconds of rollout and update in an epoch."""
    config = _config(epochs, steps_per_epoch, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        timing = train(config, runs=folder, progress=False).timing.mean()
    update = timing["total"] - timing["rollout"]
    return {"steps": steps_per_epoch / timing["total"], "rollout": timing["rollout"], "update": update}


def train_omnisafe(envs: int, torch_threads: int, epochs: int, steps_per_epoch: int) -> dict:
    """Probe: the same of OmniSafe's TRPOPID with `envs` vector environments, by its own clock."""
    os.environ.update(WANDB_MODE="disabled", WANDB_ERROR_REPORTING="false")  # imported, never used
    import_safety_gymnasium()
    import omnisafe

    ours = _config(epochs, steps_per_epoch)
    custom = {
        "algo_cfgs": {
            "steps_per_epoch": steps_per_epoch, "update_iters": ours.critic_passes,
            "batch_size": ours.minibatch_size, "cg_iters": ours.algorithm.cg_iterations,
            "target_kl": ours.algorithm.target_kl,
        },
        "lagrange_cfgs": {"cost_limit": ours.cost_limit},
        "logger_cfgs": {"use_wandb": False, "use_tensorboard": False, "log_dir": tempfile.mkdtemp(dir=".")},
    }  # fmt: skip
    terminal = {"vector_env_nums": envs, "torch_threads": torch_threads, "total_steps": ours.total_steps}
    wrapper = omnisafe.Agent(
        "TRPOPID", TASKS[TASK].reference, train_terminal_cfgs=terminal, custom_cfgs=custom
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


def train_two(epochs: int, steps_per_epoch: int) -> dict:
    """Two runs of ours at once, one thread each, on the cores that one OmniSafe run gets; steps of both."""
    run = partial(run_apart, train_shapo, cores=CORES, epochs=epochs, steps_per_epoch=steps_per_epoch)
    with ThreadPoolExecutor(CORES) as pool:
        runs = pd.DataFrame(pool.map(lambda seed: run(seed=seed), range(CORES)))
    return {**runs.mean(), "steps": runs["steps"].sum(), "note": f"{CORES} runs at once, one thread each"}


def _omnisafe_run(setting: tuple[int, int], epochs: int, steps_per_epoch: int) -> Callable[[], dict]:
    envs, threads = setting
    return partial(
        run_apart, train_omnisafe, cores=CORES, threads=threads, envs=envs, torch_threads=threads,
        epochs=epochs, steps_per_epoch=steps_per_epoch,
    )  # fmt: skip


def best_omnisafe_setting(
    steps_per_epoch: int, envs: Sequence[int] = (1, 2, 5, 10), threads: Sequence[int] = (1, 2)
) -> tuple[tuple[int, int], pd.DataFrame]:
    """How OmniSafe uses two cores best: an epoch with each number of vector environments and torch threads.

    Returns the fastest (environments, threads), and the measurements.
    """
    settings = [(n, k) for n in envs for k in threads]
    if not omnisafe_is_installed():
        return settings[0], skipped("omnisafe_settings", "steps", "OmniSafe", "steps/s")
    sides = {f"{n} × {k}": _omnisafe_run((n, k), 1, steps_per_epoch) for n, k in settings}
    rows = alternate("omnisafe_settings", sides, 1, UNITS).query("quantity == 'steps'")
    return settings[int(rows["value"].argmax())], rows


def training(
    repeats: int, epochs: int, steps_per_epoch: int, setting: tuple[int, int] = (5, 1)
) -> pd.DataFrame:
    """Training steps per second on two cores with equal hyperparameters: two runs of ours, one of OmniSafe's.

    setting: OmniSafe's (vector environments, torch threads).
    """
    sides = {"shapo": partial(train_two, epochs=epochs, steps_per_epoch=steps_per_epoch)}
    if omnisafe_is_installed():
        sides["OmniSafe"] = _omnisafe_run(setting, epochs, steps_per_epoch)
    rows = alternate("training", sides, repeats, UNITS)
    if omnisafe_is_installed():
        return rows
    return pd.concat([rows, skipped("training", "steps", "OmniSafe", "steps/s")], ignore_index=True)


def train_variants(repeats: int, steps_per_epoch: int) -> list[dict]:
    """Probe: the variants train side by side in one process, an epoch each in turn; what every epoch took."""
    trainers = {name: Trainer(_config(1, steps_per_epoch, **chosen)) for name, chosen in VARIANTS.items()}
    rows = []
    with one_thread():
        for repeat in range(-1, repeats):  # the first round warms up
            for side in list(trainers)[:: -1 if repeat % 2 else 1]:
                products = trainers[side].run_epoch()["cg_products"]
                took = trainers[side].timing[-1] | {"conjugate gradient": products}
                rows += [{"quantity": q, "side": side, "repeat": repeat, "value": v} for q, v in took.items()]
    return [row for row in rows if row["repeat"] >= 0]


def epochs(repeats: int, steps_per_epoch: int) -> pd.DataFrame:
    """An epoch of each variant on one core: seconds of rollout, actor, critics; products with F."""
    rows = pd.DataFrame(run_apart(train_variants, repeats=repeats, steps_per_epoch=steps_per_epoch))
    unit = np.where(rows["quantity"] == "conjugate gradient", "products/epoch", "s/epoch")
    return rows.assign(benchmark="epochs", unit=unit, note=f"steps an epoch: {steps_per_epoch}")[COLUMNS]


# --- the two costly pieces of an update, against the plain way to write them ---


def _in_turn(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each way, the mean of two calls in mirrored order, after one that warms up."""
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way()
    for name in (*ways, *reversed(ways)):
        start = time.perf_counter()
        ways[name]()
        seconds[name] += time.perf_counter() - start
    return {name: 500 * value for name, value in seconds.items()}


def solve_fisher(samples: int) -> dict[str, float]:
    """Probe: x = F⁻¹g by 15 products, with the structured product, and by differentiating the KL twice."""
    random = torch.Generator().manual_seed(0)
    actor = GaussianActor(60, 2, rng=np.random.default_rng(0))
    observation = torch.randn(samples, 60, generator=random)
    gradient = torch.randn(len(actor.theta), generator=random)

    def double_backward() -> None:
        product = kl_hessian_product(actor, observation)
        conjugate_gradient(lambda v: product(v) + 0.1 * v, gradient)

    return _in_turn(
        {
            "shapo": lambda: GaussianFisher(actor, observation).solve(gradient),
            "double backward": double_backward,
        }
    )


def fit_critics(samples: int) -> dict[str, float]:
    """Probe: a pass of both critics over a batch: ours, ours under SAM, and two torch modules by autograd."""
    random = torch.Generator().manual_seed(0)
    observation = torch.randn(samples, 60, generator=random)
    target = torch.randn(2, samples, generator=random)
    critics, rng = Critics(60, rng=np.random.default_rng(0)), np.random.default_rng(0)
    modules = [
        nn.Sequential(nn.Linear(60, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        for _ in "rc"
    ]
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-3) for module in modules]

    def autograd() -> None:
        for part in torch.randperm(samples)[: samples // 128 * 128].split(128):
            for module, optimizer, values in zip(modules, optimizers, target, strict=True):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(module(observation[part])[:, 0], values[part])
                (loss + 1e-3 * sum(p.square().sum() for p in module.parameters())).backward()
                nn.utils.clip_grad_norm_(module.parameters(), 40.0)
                optimizer.step()

    return _in_turn(
        {
            "shapo": lambda: critics.fit(observation, target, rng, passes=1),
            "shapo, SAM": lambda: critics.fit(observation, target, rng, passes=1, sam=EuclideanSAM(0.05)),
            "autograd": autograd,
        }
    )


def pieces(repeats: int, samples: int) -> pd.DataFrame:
    """Solving with the Fisher matrix, and a pass of the critics, on one core."""
    probes = {
        "Fisher solve": partial(run_apart, solve_fisher, samples=samples),
        "critic pass": partial(run_apart, fit_critics, samples=samples),
    }
    return _two_in_one(alternate("pieces", probes, repeats, "ms"))


# --- comparisons ---


@dataclass(frozen=True)
class Comparison:
    """Which two sides of which measurements are set against each other, and what is to be reached."""

    title: str
    benchmark: str
    quantity: str
    ours: str  # a side
    theirs: str  # the side it is compared with
    better: str  # "more": the ratio is ours/theirs; "less": theirs/ours; "cost": ours/theirs, less is better
    target: float | None = None  # of the ratio: at least this; for a cost, at most
    limit: float | None = None  # of our own value, in its unit: at most this


_ENVS, _SAFETY, _ASYNC = "environments", "safety_gymnasium", "safety_gymnasium async"
COMPARISONS = tuple(
    Comparison(*row)
    for row in (
        ("env steps, two cores: async × 10", _ENVS, "steps", "shapo, two cores", _ASYNC, "more", 10),
        ("env steps, our one core: async × 10", _ENVS, "steps", "shapo", _ASYNC, "more"),
        ("env steps, one core: single env", _ENVS, "steps", "shapo", _SAFETY, "more"),
        ("env steps, one core: bare MuJoCo", "physics", "steps", "shapo", "bare MuJoCo", "more", 0.7),
        ("reset of an environment", _ENVS, "reset", "shapo", _SAFETY, "less", None, 2),
        ("memory of 20 environments", "memory", "memory", "shapo", _SAFETY, "less", None, 100),
        ("training steps, two cores: OmniSafe", "training", "steps", "shapo", "OmniSafe", "more", 8),
        ("Fisher solve: double backward", "pieces", "Fisher solve", "shapo", "double backward", "less"),
        ("critic pass: autograd", "pieces", "critic pass", "shapo", "autograd", "less"),
        ("SAM critic pass / plain", "pieces", "critic pass", "shapo, SAM", "shapo", "cost"),
        ("SHAPO Actor epoch / vanilla", "epochs", "total", "SHAPO Actor", "vanilla", "cost", 1.10),
        ("full SHAPO epoch / vanilla", "epochs", "total", "SHAPO", "vanilla", "cost", 1.35),
    )
)
EPOCH_TARGETS = {c.ours: c.target for c in COMPARISONS if c.benchmark == "epochs"}


def compare(measurements: pd.DataFrame) -> pd.DataFrame:
    """A row per comparison of whose sides there are measurements, or rows that say why not.

    Columns: comparison; ours, theirs (medians), unit; ratio (median of the paired repeats), low, high (its
    extremes); target of the ratio; reached (None: no target, or nothing measured); better; note.
    Where the target is a limit on our own value, the target of the ratio is theirs over that limit.
    """
    rows = []
    for comparison in COMPARISONS:
        found = measurements.query("benchmark == @comparison.benchmark and quantity == @comparison.quantity")
        found = found[found["side"].isin([comparison.ours, comparison.theirs])]
        if found["side"].nunique() == 2:
            rows.append(_compared(comparison, found))
    return pd.DataFrame(rows).astype({"reached": object})  # True, False and None, not one of NumPy's


def _compared(comparison: Comparison, rows: pd.DataFrame) -> dict:
    values = rows.pivot(index="repeat", columns="side", values="value")
    ours, theirs = values[comparison.ours], values[comparison.theirs]
    ratio = (theirs / ours if comparison.better == "less" else ours / theirs).dropna()
    target, reached = comparison.target, None
    if comparison.limit is not None:
        target, reached = theirs.median() / comparison.limit, ours.median() <= comparison.limit
    elif target is not None and len(ratio):
        reached = ratio.median() <= target if comparison.better == "cost" else ratio.median() >= target
    return {
        "comparison": comparison.title, "ours": ours.median(), "theirs": theirs.median(),
        "unit": rows["unit"].iloc[0], "ratio": ratio.median(), "low": ratio.min(), "high": ratio.max(),
        "target": np.nan if target is None else target, "reached": None if reached is None else bool(reached),
        "better": comparison.better, "note": "; ".join(n for n in rows["note"].unique() if "skipped" in n),
    }  # fmt: skip


def epoch_parts(measurements: pd.DataFrame) -> pd.DataFrame:
    """Seconds of an epoch's parts, medians: a row per variant, columns rollout, actor, critics."""
    rows = measurements.query("benchmark == 'epochs'")
    parts = rows.pivot_table(index="side", columns="quantity", values="value", aggfunc="median")
    return parts.loc[list(VARIANTS), ["rollout", "actor", "critics"]]


def summary(measurements: pd.DataFrame) -> pd.DataFrame:
    """Median, smallest and largest value of every side, for reading."""
    groups = measurements.groupby(["quantity", "side", "unit", "note"], sort=False, dropna=False)["value"]
    return groups.agg(["median", "min", "max"]).reset_index()


def store(measurements: pd.DataFrame, folder: Path) -> Path:
    """Writes benchmarks.csv: the measurements with commit, machine and package versions in every row."""
    here = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    machine = f"{here['machine']}, {os.cpu_count()} cores"
    table = measurements.assign(machine=machine, commit=here["commit"], versions=versions)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmarks.csv"
    write_atomically(path, table.to_csv(index=False).encode())
    return path


if __name__ == "__main__":
    _answer(*sys.argv[1:])
