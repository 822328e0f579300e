"""What each profile spends: the one table the notebooks read their budgets from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """A budget. smoke proves the pipeline and claims nothing; laptop ships its results; paper is the paper's scale."""

    total_steps: int  # environment steps of a training run
    seeds: int  # runs per setting
    quickstart_steps: int  # steps of the two runs of notebook 00
    warm_up_steps: int  # steps of the policy that notebooks 02 and 03 look at
    random_problems: int  # random instances per dimension in notebook 01
    repeats: int  # repetitions of each timing in notebook 90


PROFILES = {
    "smoke": Profile(40_000, 1, 80_000, 40_000, 100, 1),
    "laptop": Profile(2_000_000, 5, 600_000, 200_000, 1_000, 5),
    "paper": Profile(10_000_000, 5, 600_000, 200_000, 1_000, 5),
}
