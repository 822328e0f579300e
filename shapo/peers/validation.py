"""Ours beside OmniSafe's: the runs to compare, their curves, and what the curves say.

Curves are tidy: a row per epoch of a run, with the columns baseline, side ("ours" or "OmniSafe"), seed, and those of
`omnisafe_adapter.train`. OmniSafe's are shipped in `figures/data/omnisafe.csv`, ours as the study "validation". Where
OmniSafe is installed (`./run_all.sh setup --peers`), this makes both anew and writes them there:

    python -m shapo.peers.validation
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from loky import ProcessPoolExecutor
from scipy.stats import t as student
from scipy.stats import ttest_ind
from tqdm import tqdm

from shapo.algorithms.config import Config
from shapo.experiments.profiles import PROFILES
from shapo.experiments.safety import OMNISAFE
from shapo.peers import omnisafe as omnisafe_adapter
from shapo.runs.packing import pack
from shapo.runs.run import Run, provenance
from shapo.runs.shipped import data_folder
from shapo.runs.store import write_atomically
from shapo.runs.study import Study
from shapo.runs.workers import ONE_THREAD

TASK, TOTAL_STEPS = "PointGoal1-v0", 300_000
SEEDS = {"TRPO-Lag": 3, "TRPO-PID": 3, "CPO": 3}
UPDATE_STEPS = 60_000  # over which every update of OmniSafe's is compared with ours
SIDES = ("ours", "OmniSafe")
LABELS = ["baseline", "side", "seed"]
METRICS = {"return": "return per episode", "cost": "cost per episode", "λ": "multiplier λ"}  # last quarter

BASELINES = OMNISAFE  # by name, with OmniSafe's settings

# OmniSafe's on-policy benchmark on PointGoal1, cost limit 25, 10 M steps: mean and spread of return, then of cost.
PUBLISHED = {
    "TRPO-Lag": (18.51, 3.83, 22.98, 8.45), "TRPO-PID": (19.24, 3.94, 21.38, 6.96), "CPO": (20.46, 1.38, 28.84, 7.76),
}  # fmt: skip
PUBLISHED_SEEDS = 3  # what we have of it does not say; the fewer, the wider the interval

Experiment = Mapping[str, Sequence[Config]]  # baseline -> the config of each seed


def experiment(profile: str) -> Experiment:
    """What to train: 300 k steps, three seeds or five, also under the paper profile; under smoke hardly anything."""
    budget = PROFILES[profile]
    smoke = profile == "smoke"
    return {
        name: [
            Config(
                TASK, algorithm, total_steps=budget.total_steps if smoke else TOTAL_STEPS, seed=seed,
                num_envs=budget.num_envs, steps_per_epoch=budget.steps_per_epoch,
            )
            for seed in range(budget.seeds if smoke else SEEDS[name])
        ]
        for name, algorithm in BASELINES.items()
    }  # fmt: skip


def ours(runs: Experiment) -> pd.DataFrame:
    """Curves of those of our runs that are available."""
    tables = [
        Run(config).progress.assign(baseline=name, side="ours", seed=config.seed)
        for name, configs in runs.items()
        for config in configs
        if Run(config).available
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=LABELS)


def omnisafe_is_installed() -> bool:
    """Whether the optional peer is there, found out without importing it."""
    return importlib.util.find_spec("omnisafe") is not None


def theirs(runs: Experiment, jobs: int = 2) -> pd.DataFrame:
    """Curves of OmniSafe's runs, trained now, `jobs` processes at a time; with columns of provenance.

    Raises ImportError where OmniSafe is not installed.
    """
    if not omnisafe_is_installed():
        raise ImportError("OmniSafe is not installed; ./run_all.sh setup --peers does it")
    labels = {config: name for name, configs in runs.items() for config in configs}
    here, version = provenance(), importlib.metadata.version("omnisafe")
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    source = {"omnisafe": version, "commit": here["commit"], "versions": versions, "machine": here["machine"]}
    tables = []
    with ProcessPoolExecutor(jobs, env=ONE_THREAD) as executor:
        futures = {executor.submit(omnisafe_adapter.train, config): config for config in labels}
        for future in tqdm(as_completed(futures), "OmniSafe", len(futures), unit="run", file=sys.stdout):
            config = futures[future]
            label = {"baseline": labels[config], "side": "OmniSafe", "seed": config.seed}
            tables.append(future.result().assign(**label, **source))
    return pd.concat(tables, ignore_index=True).sort_values([*LABELS, "epoch"], ignore_index=True)


def shipped(name: str = "omnisafe", folder: Path | None = None) -> pd.DataFrame:
    """A table that ships: OmniSafe's curves, or "omnisafe_updates", `omnisafe_adapter.shadow` of each baseline."""
    return pd.read_csv((folder or data_folder()) / f"{name}.csv")


def updates(runs: Experiment, jobs: int = 2) -> pd.DataFrame:
    """`omnisafe_adapter.shadow` of each baseline's first seed, with the 1e-6 in OmniSafe's solver and without."""
    with ProcessPoolExecutor(jobs, env=ONE_THREAD) as executor:
        futures = {
            (name, eps): executor.submit(omnisafe_adapter.shadow, configs[0], eps)
            for name, configs in runs.items()
            for eps in (1e-6, 0.0)
        }
        tables = [future.result().assign(baseline=name, eps=eps) for (name, eps), future in futures.items()]
    return pd.concat(tables, ignore_index=True)


def last_quarter(curves: pd.DataFrame) -> pd.DataFrame:
    """A row per run, as `statistics.compare` wants them: its means over the last quarter of the epochs.

    λ is nan where it was in no epoch known, as in CPO's recovery.
    """
    late = curves[curves["epoch"] > 0.75 * curves.groupby(LABELS)["epoch"].transform("max")]
    columns = {"episode_return": "return", "episode_cost": "cost", "lagrangian_multiplier": "λ"}
    means = late.groupby(LABELS, sort=False)[list(columns)].mean().rename(columns=columns).reset_index()
    return means.rename(columns={"side": "variant"}).assign(task=TASK)


def differences(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Ours minus OmniSafe's, per baseline and metric, with Welch's t interval and p.

    runs: of `last_quarter`. The bootstrap's intervals are too narrow for three seeds; Student's t knows how few they
    are. Columns: baseline, metric, difference (of the means), low, high, p.
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
    """Ours minus the published means, per baseline, of return and cost, with Welch's interval.

    results: of `experiments.safety.results(published(...))`, last quarters. Their spread is taken as the standard
    deviation of PUBLISHED_SEEDS runs. A baseline with fewer than two runs of ours has no interval.
    """
    rows = []
    for baseline, numbers in PUBLISHED.items():
        runs = results[results.baseline == baseline]
        for metric, mean, spread in zip(("return", "cost"), numbers[::2], numbers[1::2], strict=True):
            n, there = runs[metric].count(), runs[metric].mean()
            parts = np.array([runs[metric].var() / n if n > 1 else np.nan, spread**2 / PUBLISHED_SEEDS])
            freedom = parts.sum() ** 2 / (parts**2 / [max(n - 1, 1), PUBLISHED_SEEDS - 1]).sum()
            reach = student.ppf((1 + level) / 2, freedom) * np.sqrt(parts.sum())
            rows.append(
                [baseline, metric, n, there, mean, there - mean, there - mean - reach, there - mean + reach]
            )
    columns = ["baseline", "metric", "runs", "ours", "published", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def in_words(table: pd.DataFrame) -> str:
    """Markdown: a line per baseline of `differences`; bold where zero lies outside the interval."""
    lines = []
    for baseline, part in table.groupby("baseline", sort=False):
        said = []
        for row in part.itertuples():
            text = f"{METRICS[row.metric]} {row.difference:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
            said.append(text if row.low <= 0 <= row.high else f"**{text}**")
        lines.append(f"- {baseline}: {'; '.join(said)}")
    outside = int(((table["low"] > 0) | (table["high"] < 0)).sum())
    expected = 0.05 * len(table)
    lines.append(
        f"\nZero lies outside {outside} of {len(table)} intervals; of equal programs one expects {expected:.1f}."
    )
    return "\n".join(lines)


def main() -> None:
    """Trains everything this comparison ships, and ships it."""
    runs = experiment("laptop")
    study = Study("validation", [config for configs in runs.values() for config in configs]).run()
    pack(study)
    short = {name: [replace(configs[0], total_steps=UPDATE_STEPS)] for name, configs in runs.items()}
    for name, table in (("omnisafe", theirs(runs)), ("omnisafe_updates", updates(short))):
        write_atomically(data_folder() / f"{name}.csv", table.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
