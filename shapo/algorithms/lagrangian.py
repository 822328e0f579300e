"""TRPO-Lagrangian and PIDLag: one objective, and two ways to update its multiplier.

Both have the published rates on every task. Adam's does not depend on the unit of the cost: λ moves by about 0.035 an
update. The PID's gains multiply J_C − β, tens on the navigation tasks and at most 1 where an episode costs at most 1 (a
fall): there λ gains at most 0.01 an update from the integral and 0.1 in all from the error, so it acts, but slowly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from shapo.algorithms.advantages import Batch
from shapo.algorithms.trust_region import State, TrustRegion, centred, standardised
from shapo.checks import AT_LEAST_0, BELOW_1, setting, whole


@dataclass(frozen=True)
class Lagrangian(TrustRegion):
    """Trust-region ascent on A^λ = (A_r − λ A_c) / (1 + λ); subclasses say how λ follows J_C − β."""

    lagrangian_multiplier_init: float = setting(AT_LEAST_0, 0.001)  # λ before the first update
    # Upper bound of λ and of PIDLag's integral; None: no bound.
    lagrangian_multiplier_max: float | None = setting(AT_LEAST_0, None)

    def __post_init__(self):
        super().__post_init__()
        if self.lagrangian_multiplier_init > self._bound:
            raise ValueError(
                f"lagrangian_multiplier_max must be at least lagrangian_multiplier_init = "
                f"{self.lagrangian_multiplier_init}; got {self.lagrangian_multiplier_max}"
            )

    @property
    def _bound(self) -> float:
        return math.inf if self.lagrangian_multiplier_max is None else self.lagrangian_multiplier_max

    def bounded(self, multiplier: float) -> float:
        """The multiplier clipped to [0, lagrangian_multiplier_max]."""
        return min(max(0.0, multiplier), self._bound)

    def advantage(self, state: State, batch: Batch) -> Tensor:
        lam = state["lagrangian_multiplier"]
        return (standardised(batch.advantage[0]) - lam * centred(batch.advantage[1])) / (1 + lam)


@dataclass(frozen=True)
class TRPOLag(Lagrangian):
    """TRPO-Lagrangian (Ray et al. 2019): λ follows Adam ascent on λ (J_C − β), and is kept at least 0."""

    lagrangian_multiplier_lr: float = setting(AT_LEAST_0, 0.035)  # step size of Adam

    def initial_state(self) -> State:
        return {"lagrangian_multiplier": self.lagrangian_multiplier_init, "m": 0.0, "v": 0.0, "t": 0.0}

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        gradient, t = mean_cost - cost_limit, state["t"] + 1
        m = 0.9 * state["m"] + 0.1 * gradient
        v = 0.999 * state["v"] + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        lam = self.bounded(state["lagrangian_multiplier"] + self.lagrangian_multiplier_lr * step)
        return {"lagrangian_multiplier": lam, "m": m, "v": v, "t": t}


@dataclass(frozen=True)
class PIDLag(Lagrangian):
    """TRPO-PID (Stooke et al. 2020): a PID controller sets λ from J_C − β.

    I ← (I + k_i Δ)₊,   P ← EMA(Δ),   D = (EMA(J_C) − EMA(J_C) some updates ago)₊
    λ = (k_p P + I + k_d D)₊,          Δ = J_C − β
    """

    pid_kp: float = setting(AT_LEAST_0, 0.1)  # gain of the smoothed error Δ
    pid_ki: float = setting(AT_LEAST_0, 0.01)  # gain of the integral of Δ
    pid_kd: float = setting(AT_LEAST_0, 0.01)  # gain of the rise of the smoothed cost
    pid_d_delay: int = setting(whole(1), 10)  # updates over which the rise is taken
    pid_delta_p_ema: float = setting(BELOW_1, 0.95)  # smoothing factor of the error
    pid_delta_d_ema: float = setting(BELOW_1, 0.95)  # smoothing factor of the cost

    def initial_state(self) -> State:
        lam = self.lagrangian_multiplier_init
        return {"lagrangian_multiplier": lam, "integral": lam, "error": 0.0, "costs": (0.0,)}

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        delta, costs = mean_cost - cost_limit, state["costs"]  # EMA(J_C) of the last updates, oldest first
        integral = self.bounded(state["integral"] + self.pid_ki * delta)
        error = self.pid_delta_p_ema * state["error"] + (1 - self.pid_delta_p_ema) * delta
        cost = self.pid_delta_d_ema * costs[-1] + (1 - self.pid_delta_d_ema) * mean_cost
        rise = max(0.0, cost - costs[0])
        lam = self.bounded(self.pid_kp * error + integral + self.pid_kd * rise)
        costs = (*costs, cost)[-self.pid_d_delay :]
        return {"lagrangian_multiplier": lam, "integral": integral, "error": error, "costs": costs}
