"""What each profile spends, and the dials of each task: the tables the notebooks read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """A budget. smoke proves the pipeline and claims nothing; laptop ships its results; paper is the paper's scale."""

    total_steps: int  # environment steps of a run of the experiments
    seeds: int  # runs per setting
    steps_per_epoch: int  # environment steps between updates, all environments together
    num_envs: int  # environments stepped together
    pilot_steps: int  # environment steps of a run of the pilot
    quickstart_steps: int  # steps of the runs of notebooks 00 and 11
    warm_up_steps: int  # steps of the policy that notebooks 02 and 03 look at
    random_problems: int  # random instances per dimension in notebook 01
    repeats: int  # repetitions of each timing in notebook 90


PROFILES = {
    "smoke": Profile(4_000, 2, 2_000, 2, 4_000, 80_000, 40_000, 100, 1),
    "laptop": Profile(2_000_000, 5, 20_000, 20, 1_000_000, 600_000, 200_000, 1_000, 5),
    "paper": Profile(10_000_000, 5, 20_000, 20, 1_000_000, 600_000, 200_000, 1_000, 5),
}


@dataclass(frozen=True)
class Dials:
    """SHAPO's two radii on a task."""

    delta_down: float  # of the actor's Fisher ball, nats
    rho_critic: float  # of the critics' Euclidean ball


# From the pilot, notebook 91, by the rule stated there. ρ is provisional: its sweep is not finished.
DIALS = {
    "PointGoal1-v0": Dials(1e-4, 0.05),
    "PointButton1-v0": Dials(1e-4, 0.05),  # as PointGoal1
    "Ant-v4": Dials(1e-4, 0.01),  # as Walker2d
    "Walker2d-v4": Dials(1e-4, 0.01),
}
