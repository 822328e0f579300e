"""The budget of each profile and the dials of each task: the tables that the notebooks read.

This file imports the standard library only, because `notebooks/run.py` reads it before anything is installed.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Profile:
    """A budget. smoke proves the pipeline and claims nothing; laptop ships its results; paper has 10 M steps a run."""

    total_steps: int  # environment steps of a run of the experiments
    seeds: int  # runs per setting
    more_seeds: int  # runs per setting where a claim is decided: on Safety Gym, except for PIDLag
    long_steps: int  # environment steps of PIDLag on Safety Gym, whose multiplier swings for millions
    steps_per_epoch: int  # environment steps between updates, all environments together
    num_envs: int  # environments stepped together
    pilot_steps: int  # environment steps of a run of the pilot
    pilot_seeds: int  # runs per setting of the pilot
    quickstart_steps: int  # steps of the runs of notebooks 00 and 11
    warm_up_steps: int  # steps of the policy that notebooks 02 and 03 look at
    random_problems: int  # random instances per dimension in notebook 01
    repeats: int  # repetitions of each timing in notebook 90
    robot_iterations: int  # iterations of SHAC in a run of notebooks 20 to 23
    robot_seeds: int  # runs per setting in those notebooks
    robot_envs: int  # robots simulated together
    robot_horizon: int  # control steps between updates


_LAPTOP = Profile(
    total_steps=2_000_000, seeds=5, more_seeds=10, long_steps=5_000_000, steps_per_epoch=20_000, num_envs=20,
    pilot_steps=1_000_000, pilot_seeds=4, quickstart_steps=600_000, warm_up_steps=200_000,
    random_problems=1_000, repeats=5,
    robot_iterations=2_000, robot_seeds=5, robot_envs=64, robot_horizon=32,
)  # fmt: skip
PROFILES = {
    "smoke": Profile(
        total_steps=4_000, seeds=2, more_seeds=2, long_steps=4_000, steps_per_epoch=2_000, num_envs=2,
        pilot_steps=4_000, pilot_seeds=1, quickstart_steps=80_000, warm_up_steps=40_000, random_problems=100, repeats=1,
        robot_iterations=3, robot_seeds=2, robot_envs=4, robot_horizon=8,
    ),
    "laptop": _LAPTOP,
    "paper": replace(_LAPTOP, total_steps=10_000_000, more_seeds=5, long_steps=10_000_000),
}  # fmt: skip


@dataclass(frozen=True)
class Dials:
    """SHAPO's two radii on a task."""

    share: float  # δ_Down of the actor's Fisher ball, as a share of the task's δ_Up
    rho_critic: float  # radius of the critics' Euclidean ball


# What the pilot's rule has chosen (notebook 91), one pair a task, in every experiment. ρ was swept on PointGoal1 and
# Walker2d: PointButton1 has the former's, Ant the latter's.
DIALS = {
    "PointGoal1-v0": Dials(share=0.05, rho_critic=0.25),
    "Ant-v4": Dials(share=0.3, rho_critic=0.25),
    "Walker2d-v4": Dials(share=1.0, rho_critic=0.25),
    "PointButton1-v0": Dials(share=0.1, rho_critic=0.25),
}


def dials(task: str) -> Dials:
    """The radii of a task; a task without a pilot has a middle share, and the same ρ."""
    return DIALS.get(task, Dials(share=0.1, rho_critic=0.25))
