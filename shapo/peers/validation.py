"""Our runs against OmniSafe's: which runs are compared, their curves, and what the curves say.

Curves have a row per epoch of a run: baseline, side ("ours" or "OmniSafe"), seed, and the columns of `omnisafe.train`.
OmniSafe's ship in `figures/data/omnisafe.csv`, ours as the study "validation". Where OmniSafe is installed
(`./run_all.sh setup --peers`), this command makes both anew and writes them there:

    python -m shapo.peers.validation
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student
from scipy.stats import ttest_ind

from shapo.algorithms.config import Config
from shapo.experiments.profiles import PROFILES
from shapo.experiments.safety import OMNISAFE
from shapo.peers import omnisafe
from shapo.peers.measuring import TASK, at_once, here, is_installed
from shapo.runs.packing import pack
from shapo.runs.run import Run
from shapo.runs.shipped import data_folder
from shapo.runs.store import write_atomically
from shapo.runs.study import Study

TOTAL_STEPS, SEEDS = 300_000, 3
UPDATE_STEPS = 60_000  # the steps over which every update of OmniSafe's is compared with ours
SIDES = ("ours", "OmniSafe")
LABELS = ["baseline", "side", "seed"]
METRICS = {"return": "return per episode", "cost": "cost per episode", "λ": "multiplier λ"}  # last quarter

# OmniSafe's on-policy benchmark on PointGoal1, cost limit 25, 10 M steps: mean and spread of return, then of cost.
PUBLISHED = {
    "TRPO-Lag": (18.51, 3.83, 22.98, 8.45), "TRPO-PID": (19.24, 3.94, 21.38, 6.96), "CPO": (20.46, 1.38, 28.84, 7.76),
}  # fmt: skip
PUBLISHED_SEEDS = 3  # assumed, as our copy of the table does not say; fewer seeds widen the interval

Experiment = Mapping[str, Sequence[Config]]  # baseline -> the config of each seed


def experiment(profile: str) -> Experiment:
    """The configs to train: 300 k steps and three seeds, also under the paper profile; under smoke, hardly anything."""
    budget, smoke = PROFILES[profile], profile == "smoke"
    sizes = {"num_envs": budget.num_envs, "steps_per_epoch": budget.steps_per_epoch}
    sizes["total_steps"] = budget.total_steps if smoke else TOTAL_STEPS
    seeds = range(budget.seeds if smoke else SEEDS)
    return {name: [Config(TASK, way, seed=seed, **sizes) for seed in seeds] for name, way in OMNISAFE.items()}


def ours(runs: Experiment) -> pd.DataFrame:
    """Curves of our available runs."""
    there = [(name, run) for name, configs in runs.items() for run in map(Run, configs) if run.available]
    tables = [run.progress.assign(baseline=name, side="ours", seed=run.config.seed) for name, run in there]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=LABELS)


def theirs(runs: Experiment, jobs: int = 2) -> pd.DataFrame:
    """Curves of OmniSafe's runs, trained now in `jobs` processes at a time, with columns of provenance.

    Raises ImportError where OmniSafe is not installed.
    """
    if not is_installed("omnisafe"):
        raise ImportError("OmniSafe is not installed; ./run_all.sh setup --peers does it")
    source = {"side": "OmniSafe", "omnisafe": importlib.metadata.version("omnisafe"), **here()}
    labels = [(name, config) for name, configs in runs.items() for config in configs]
    trained = at_once(omnisafe.train, [(config,) for _, config in labels], "OmniSafe", jobs)
    both = zip(labels, trained, strict=True)
    tables = [table.assign(baseline=name, seed=config.seed, **source) for (name, config), table in both]
    return pd.concat(tables, ignore_index=True).sort_values([*LABELS, "epoch"], ignore_index=True)


def shipped(name: str = "omnisafe", folder: Path | None = None) -> pd.DataFrame:
    """A table that ships: OmniSafe's curves, or "omnisafe_updates", the `omnisafe.shadow` of each baseline."""
    return pd.read_csv((folder or data_folder()) / f"{name}.csv")


def updates(runs: Experiment, jobs: int = 2) -> pd.DataFrame:
    """`omnisafe.shadow` of each baseline's first seed, with and without the 1e-6 in OmniSafe's solver."""
    calls = {(name, eps): (configs[0], eps) for name, configs in runs.items() for eps in (1e-6, 0.0)}
    made = zip(calls, at_once(omnisafe.shadow, list(calls.values()), "updates", jobs), strict=True)
    return pd.concat([table.assign(baseline=name, eps=eps) for (name, eps), table in made], ignore_index=True)


def last_quarter(curves: pd.DataFrame) -> pd.DataFrame:
    """A row per run, as `statistics.compare` takes them: its means over the last quarter of the epochs.

    λ is nan where none of these epochs has one, as in CPO's recovery.
    """
    late = curves[curves["epoch"] > 0.75 * curves.groupby(LABELS)["epoch"].transform("max")]
    columns = {"episode_return": "return", "episode_cost": "cost", "lagrangian_multiplier": "λ"}
    means = late.groupby(LABELS, sort=False)[list(columns)].mean().rename(columns=columns).reset_index()
    return means.rename(columns={"side": "variant"}).assign(task=TASK)


def differences(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Ours minus OmniSafe's, per baseline and metric, with Welch's t interval and p.

    runs: from `last_quarter`. The bootstrap's intervals are too narrow for three seeds; Student's t accounts for how
    few they are. Columns: baseline, metric, difference (of the means), low, high, p.
    """
    rows = []
    for baseline, part in runs.groupby("baseline", sort=False):
        for metric in METRICS:
            us, them = (part.loc[part["variant"] == side, metric].dropna() for side in SIDES)
            if min(len(us), len(them)) < 2 or np.ptp(np.r_[us, them]) == 0:
                continue  # nothing to test: one run, or a multiplier that is the same everywhere
            test = ttest_ind(us, them, equal_var=False)
            low, high = test.confidence_interval(level)
            rows.append((baseline, metric, us.mean() - them.mean(), low, high, test.pvalue))
    return pd.DataFrame(rows, columns=["baseline", "metric", "difference", "low", "high", "p"])


def beside_published(results: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Our means of return and cost minus the published ones, per baseline, with Welch's interval.

    results: `experiments.safety.results(published(...))`, last quarters. The published spread is taken as the standard
    deviation of PUBLISHED_SEEDS runs. A baseline with fewer than two runs of ours has no interval.
    """
    rows = []
    for baseline, numbers in PUBLISHED.items():
        runs = results[results.baseline == baseline]
        for metric, mean, spread in zip(("return", "cost"), numbers[::2], numbers[1::2], strict=True):
            n, there = runs[metric].count(), runs[metric].mean()
            parts = np.array([runs[metric].var() / n if n > 1 else np.nan, spread**2 / PUBLISHED_SEEDS])
            freedom = parts.sum() ** 2 / (parts**2 / [max(n - 1, 1), PUBLISHED_SEEDS - 1]).sum()
            reach, gap = student.ppf((1 + level) / 2, freedom) * np.sqrt(parts.sum()), there - mean
            rows.append([baseline, metric, n, there, mean, gap, gap - reach, gap + reach])
    columns = ["baseline", "metric", "runs", "ours", "published", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def differences_in_words(table: pd.DataFrame) -> str:
    """`differences` in Markdown, a line per baseline; bold where zero lies outside the interval."""
    outside = (table.low > 0) | (table.high < 0)
    texts = [
        f"{METRICS[row.metric]} {row.difference:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
        for row in table.itertuples()
    ]
    texts = pd.Series(texts, table.index, dtype=object)
    texts = texts.where(~outside, "**" + texts + "**")
    lines = [f"- {name}: {'; '.join(part)}\n" for name, part in texts.groupby(table.baseline, sort=False)]
    return "".join(lines) + (
        f"\nZero lies outside {outside.sum()} of {len(table)} intervals; of equal programs one expects "
        f"{0.05 * len(table):.1f}."
    )


def main() -> None:
    """Trains everything that this comparison ships, and writes it where it ships."""
    runs = experiment("laptop")
    study = Study("validation", [config for configs in runs.values() for config in configs]).run()
    pack(study)
    short = {name: [replace(configs[0], total_steps=UPDATE_STEPS)] for name, configs in runs.items()}
    for name, table in (("omnisafe", theirs(runs)), ("omnisafe_updates", updates(short))):
        write_atomically(data_folder() / f"{name}.csv", table.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
