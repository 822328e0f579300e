"""The experiments of SHAC-ASAM as grids of configs: {(robot, algorithm): [a config per seed]}."""

from __future__ import annotations

from shapo.differentiable.config import PPO, SHAC, RobotConfig
from shapo.profiles import PROFILES
from shapo.sharpness import AdaptiveSAM
from shapo.studies import Study

RHO = 0.75  # the paper's
RHOS = (0.25, RHO, 1.5)  # for its Figure 4
PPO_STEPS = 10  # environment steps of PPO, times SHAC's: it has no gradient to learn from

Experiment = dict[tuple[str, str], list[RobotConfig]]


def shac(profile: str) -> Experiment:
    """The Ant with SHAC: notebook 20."""
    return {("DiffAnt", "SHAC"): _seeds("DiffAnt", None, profile)}


def shac_asam(profile: str) -> Experiment:
    """The Ant with SHAC and with SHAC-ASAM at every ρ: notebooks 21 and 22, Figures 2 to 4."""
    return shac(profile) | {
        ("DiffAnt", f"SHAC-ASAM, ρ = {rho:g}"): _seeds("DiffAnt", AdaptiveSAM(rho), profile) for rho in RHOS
    }


def ppo(profile: str) -> Experiment:
    """The Ant with PPO: notebook 22."""
    budget = PROFILES[profile]
    algorithm = PPO(horizon=4 * budget.robot_horizon)
    iterations = PPO_STEPS * budget.robot_iterations * budget.robot_horizon // algorithm.horizon
    return {
        ("DiffAnt", "PPO"): [
            RobotConfig("DiffAnt", algorithm, None, iterations, seed, budget.robot_envs)
            for seed in range(budget.robot_seeds)
        ]
    }


def humanoid(profile: str) -> Experiment:
    """The Humanoid with SHAC and with SHAC-ASAM."""
    return {
        ("DiffHumanoid", "SHAC"): _seeds("DiffHumanoid", None, profile),
        ("DiffHumanoid", f"SHAC-ASAM, ρ = {RHO:g}"): _seeds("DiffHumanoid", AdaptiveSAM(RHO), profile),
    }


EXPERIMENTS = {"shac": shac, "shac_asam": shac_asam, "ppo": ppo, "humanoid": humanoid}


def study(name: str, profile: str) -> Study:
    """The runs of an experiment by name. Raises ValueError for one that there is not."""
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {', '.join(EXPERIMENTS)}; got {name!r}")
    return Study(name, [config for configs in EXPERIMENTS[name](profile).values() for config in configs])


def _seeds(task: str, actor: AdaptiveSAM | None, profile: str) -> list[RobotConfig]:
    budget = PROFILES[profile]
    algorithm = SHAC(horizon=budget.robot_horizon)
    return [
        RobotConfig(task, algorithm, actor, budget.robot_iterations, seed, budget.robot_envs)
        for seed in range(budget.robot_seeds)
    ]
