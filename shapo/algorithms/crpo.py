"""CRPO: every update follows either the reward or the cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shapo.algorithms.advantages import Batch
from shapo.algorithms.trust_region import State, TrustRegion, centred, standardised
from shapo.checks import AT_LEAST_0, filled, setting
from shapo.envs.batched import Task


@dataclass(frozen=True)
class CRPO(TrustRegion):
    """Constraint-rectified policy optimisation (Xu et al. 2021), on TRPO's step.

    An update ascends the reward while J_C ≤ β + tolerance, and descends the cost otherwise. No multiplier is learned.
    A perturbation worsens whichever of the two is active.

    The published tolerance of 2 belongs to limits of 10 and 25. Where an episode costs 1 at most, a fall, it would let
    every cost pass, and CRPO would be TRPO. So the tolerance is 2, but never more than a fifth of β.
    """

    # η, the cost above β that is tolerated; None: the smaller of 2 and β/5
    tolerance: float | None = setting(AT_LEAST_0, None)

    def resolved(self, task: Task, cost_limit: float) -> TrustRegion:
        return filled(super().resolved(task, cost_limit), tolerance=min(2.0, cost_limit / 5))

    def initial_state(self) -> State:
        return {"cost_active": 0.0}

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        return state | {"cost_active": float(mean_cost > cost_limit + self.tolerance)}

    def advantage(self, state: State, batch: Batch) -> Tensor:
        return -centred(batch.advantage[1]) if state["cost_active"] else standardised(batch.advantage[0])

    def update_actor(self, actor, batch, perturbation, samples, state):
        log = super().update_actor(actor, batch, perturbation, samples, state)
        return log | {"cost_active": state["cost_active"]}
