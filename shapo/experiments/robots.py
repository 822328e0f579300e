"""The experiments of SHAC-ASAM as grids of configs: {(robot, algorithm): [a config per seed]}."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from shapo.experiments.profiles import PROFILES
from shapo.experiments.statistics import compare, readable
from shapo.robots.config import PPO, SHAC, RobotConfig
from shapo.runs.run import Run
from shapo.runs.study import Study
from shapo.sharpness import AdaptiveSAM

RHO = 0.75  # the paper's ρ
RHOS = (0.25, RHO, 1.5)  # the ρ of the paper's Figure 4
PPO_STEPS = 2.5  # PPO's environment steps over SHAC's: PPO needs more steps, so it gets more

Experiment = dict[tuple[str, str], list[RobotConfig]]


def shac(profile: str) -> Experiment:
    """The Ant with SHAC: notebook 20."""
    return _cell(profile, "DiffAnt", "SHAC")


def shac_asam(profile: str) -> Experiment:
    """The Ant with SHAC and SHAC-ASAM: at every ρ, along θ + ε, and cheaper. Notebooks 21 and 22, Figures 2 to 4."""
    few = few_robots(PROFILES[profile].robot_envs)
    of_rho = [_cell(profile, "DiffAnt", asam(rho), AdaptiveSAM(rho)) for rho in RHOS]
    perturbed = _cell(profile, "DiffAnt", ALONG, AdaptiveSAM(RHO), along_perturbed=True)
    cheaper = _cell(profile, "DiffAnt", FEW, AdaptiveSAM(RHO), ascent_envs=few)
    return merged(shac(profile), *of_rho, perturbed, cheaper)


def dial(profile: str) -> Experiment:
    """The Ant with SHAC-ASAM along θ + ε at the other ρ: notebook 22, Figure 4."""
    others = [rho for rho in RHOS if rho != RHO]
    return merged(
        *(_cell(profile, "DiffAnt", along(r), AdaptiveSAM(r), along_perturbed=True) for r in others)
    )


def ppo(profile: str, task: str = "DiffAnt") -> Experiment:
    """A robot with PPO: notebook 22."""
    budget = PROFILES[profile]
    algorithm = PPO(horizon=4 * budget.robot_horizon)
    iterations = int(PPO_STEPS * budget.robot_iterations * budget.robot_horizon / algorithm.horizon)
    return _cell(profile, task, "PPO", algorithm=algorithm, iterations=iterations)


def humanoid(profile: str) -> Experiment:
    """The Humanoid with SHAC, SHAC-ASAM and PPO, with at most three seeds because its runs take twice as long."""
    task, actor = "DiffHumanoid", AdaptiveSAM(RHO)
    both = _cell(profile, task, asam(RHO), actor) | _cell(profile, task, ALONG, actor, along_perturbed=True)
    experiment = _cell(profile, task, "SHAC") | both | ppo(profile, task)
    return {name: configs[:3] for name, configs in experiment.items()}


def robots(profile: str) -> Experiment:
    """All experiments of the robots together: these ship."""
    return shac_asam(profile) | dial(profile) | ppo(profile) | humanoid(profile)


def asam(rho: float) -> str:
    """The name of SHAC-ASAM at ρ in figures and tables."""
    return f"SHAC-ASAM, ρ = {rho:g}"


def along(rho: float) -> str:
    """The name of SHAC-ASAM at ρ whose training continues along the trajectories of θ + ε."""
    return f"{asam(rho)}, along θ + ε"


ALONG, FEW = along(RHO), f"{asam(RHO)}, few robots"


def few_robots(envs: int) -> int:
    """The number of robots that the cheaper SHAC-ASAM uses for its ascent."""
    return max(1, envs // 8)


EXPERIMENTS = {build.__name__: build for build in (shac, shac_asam, dial, ppo, humanoid, robots)}


def study(name: str, profile: str) -> Study:
    """An experiment as a study; that of "robots", which ships, is named by profile. Raises ValueError if unknown."""
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {', '.join(EXPERIMENTS)}; got {name!r}")
    configs = [config for configs in EXPERIMENTS[name](profile).values() for config in configs]
    return Study(f"robots-{profile}" if name == "robots" else name, configs)


def ends_of_training(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """A row per algorithm and seed: what the run took, means over its last tenth, and its failures from start to end.

    std: σ of the exploration noise, mean over actions.
    """
    rows = {}
    for algorithm, run in ((name, run) for name, several in runs.items() for run in several):
        progress = run.progress
        late = progress.tail(max(1, len(progress) // 10))
        rows[algorithm, run.config.seed] = {
            "steps": progress.steps.iloc[-1], "minutes": run.timing.total.median() * len(progress) / 60,
            **late[["episode_return", "episode_length", "forward_velocity", "std"]].mean(),
            **progress[["diverged", "dropped_gradients"]].iloc[-1],
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["algorithm", "seed"]) if rows else table


def policy_means(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per algorithm, policy and condition `by`: mean return, share of rollouts that fell, rollouts, diverged.

    Policies differ more than the episodes of one policy, so the mean of an algorithm is taken over its policies.
    Rollouts that diverged are left out of the return, counted in `diverged`, and counted as fallen.
    """
    keys = ["algorithm", "policy", *by]
    counted = table.groupby(keys, sort=False).agg(
        fallen=("failed", "mean"), rollouts=("return", "size"), diverged=("diverged", "sum")
    )
    sound = table[~table.diverged].groupby(keys, sort=False)["return"].mean()
    return counted.join(sound).reset_index()


def against_shac(policies: pd.DataFrame, by: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables, a row per algorithm and a column per value of `by`: its return, and how probably it beats SHAC.

    policies: `policy_means` by this condition. The numbers are those of `statistics.compare`: the interquartile mean
    over policies (with three, the mean) with a bootstrap's 95 % interval, and the probability that a policy of the
    algorithm returns more than a policy of SHAC.
    """
    runs = policies.rename(columns={"algorithm": "variant", "policy": "seed", by: "task"}).assign(baseline="")
    table = compare(runs, np.random.default_rng(0), higher=["return"], reference="SHAC")
    shown = readable(table).droplevel("baseline").rename_axis([by, "algorithm"])
    order = list(dict.fromkeys(policies.algorithm))
    returns, better = (shown[name].unstack(0).loc[order] for name in ("return", "P(better return)"))
    return returns, better.drop(index="SHAC", errors="ignore")


def over_grounds(policies: pd.DataFrame, trained: tuple[float, float]) -> pd.DataFrame:
    """A row per algorithm and policy: its returns and falls over all grounds, and how much of its return it keeps.

    policies: `policy_means` by stiffness and damping. trained: stiffness and damping of training.
    """
    keys = ["algorithm", "policy"]
    at_home = (policies.stiffness == trained[0]) & (policies.damping == trained[1])
    home = policies[at_home].set_index(keys)["return"]
    table = policies.join(home.rename("of training"), on=keys)
    kept = table["return"] / table["of training"]
    return table.assign(kept=kept, half=kept > 0.5).groupby(keys, sort=False).agg(**{
        "of training": ("of training", "first"), "median": ("return", "median"), "worst": ("return", "min"),
        "worst, kept": ("kept", "min"), "above half": ("half", "sum"), "grounds": ("return", "size"),
        "falls": ("fallen", "mean"),
    })  # fmt: skip


def merged(*experiments: Experiment) -> Experiment:
    return {cell: configs for experiment in experiments for cell, configs in experiment.items()}


def _cell(profile: str, task: str, name: str, actor: AdaptiveSAM | None = None, **settings) -> Experiment:
    """A config per seed of the profile. settings: fields of RobotConfig that differ from the profile."""
    budget = PROFILES[profile]
    usual = {"algorithm": SHAC(horizon=budget.robot_horizon), "iterations": budget.robot_iterations}
    settings = usual | {"num_envs": budget.robot_envs} | settings
    return {
        (task, name): [RobotConfig(task, actor=actor, seed=s, **settings) for s in range(budget.robot_seeds)]
    }
