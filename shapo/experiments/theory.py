"""The theory of SHAPO in numbers, small enough to be computed without sampling error: Theorem 1, Propositions 2 and 3.

θ: parameters (..., 2S), on the ring S means and S log-stds. g: ∇L at θ₀ (d,). F: Fisher matrix at θ₀ (d, d).
U_F(g, δ): `fisher_step`. Q = N(θ₀, F⁻¹/n): `sample_posterior`, what n samples leave open about θ. σ: `surrogate_std`.
z_α: the α-quantile of N(0, 1), negative. NumPy and SciPy, float64 throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import norm

from shapo.algorithms import networks
from shapo.checks import AT_LEAST_0, POSITIVE, Checked, real, setting, whole
from shapo.sharpness import Fisher, delta_from_alpha, trust_region_step

# --- Theorem 1: the surrogate bound ---


@dataclass(frozen=True)
class RingRoad(Checked):
    """A CMDP in which every quantity of Theorem 1 can be computed: a ring of S cells, where the action is a speed.

    A positive action tends to move one cell forward (+1 reward), a negative one backward (−1); in cell 0, the
    crossing, speeding (|a| > 1) costs. Rewards and costs are bounded; the policy is a Gaussian per cell,
    θ = (means, log-stds). Integrals over a are sums over `actions`, whose spacing is far below any standard
    deviation used: for such smooth integrands the error is at rounding level.
    """

    cells: int = setting(whole(3), 5)  # S
    gamma: float = setting(real("a number between 0 and 1", lambda value: 0 < value < 1), 0.8)
    multiplier: float = 1.0  # λ of the Lagrangian reward r − λ c

    @property
    def actions(self) -> NDArray:
        """The quadrature points of the action, (K,)."""
        return np.linspace(-10.0, 10.0, 1001)

    def rewards(self) -> NDArray:
        """Lagrangian reward r − λc of each cell and action, (S, K)."""
        forward, backward = self._moves()
        reward = np.tile(forward - backward, (self.cells, 1))
        reward[0] -= self.multiplier * expit(4 * (self.actions**2 - 1))
        return reward

    def transitions(self) -> NDArray:
        """P(s' | s, a) as an array (S, K, S)."""
        (forward, backward), stay = self._moves(), np.eye(self.cells)
        moves = {1: forward, -1: backward, 0: 1 - forward - backward}
        return sum(
            chance[None, :, None] * np.roll(stay, by, axis=1)[:, None, :] for by, chance in moves.items()
        )

    def _moves(self) -> tuple[NDArray, NDArray]:
        return expit(4 * self.actions - 2), expit(-4 * self.actions - 2)

    def policy(self, theta: NDArray) -> NDArray:
        """π_θ(a|s) as weights on the quadrature points, (..., S, K), each row summing to one."""
        mean, log_std = np.split(np.asarray(theta, dtype=float)[..., None], 2, axis=-2)
        weights = np.exp(-0.5 * ((self.actions - mean) / np.exp(log_std)) ** 2)
        return weights / weights.sum(-1, keepdims=True)

    def chain(self, theta: NDArray) -> NDArray:
        """I − γ P_π, (S, S)."""
        chances = np.einsum("sk,skt->st", self.policy(theta), self.transitions())
        return np.eye(self.cells) - self.gamma * chances

    def value(self, theta: NDArray) -> NDArray:
        """V^π(s), (S,): the solution of V = r_π + γ P_π V."""
        return np.linalg.solve(self.chain(theta), (self.policy(theta) * self.rewards()).sum(1))

    def objective(self, theta: NDArray) -> float:
        """J(π_θ) = E_{s₀ ~ uniform} V^π(s₀), the expected discounted return of r − λc."""
        return float(self.value(theta).mean())

    def visitation(self, theta: NDArray) -> NDArray:
        """d^π(s) = (1 − γ) Σ_t γᵗ P(s_t = s), (S,), summing to one."""
        start = np.full(self.cells, 1 / self.cells)
        return (1 - self.gamma) * np.linalg.solve(self.chain(theta).T, start)

    def advantage(self, theta: NDArray) -> NDArray:
        """A^π(s, a) = Q^π(s, a) − V^π(s), (S, K)."""
        value = self.value(theta)
        return self.rewards() + self.gamma * self.transitions() @ value - value[:, None]


@dataclass(frozen=True)
class RingSurrogate:
    """L_π₀(θ) = E_{s ~ d^π₀, a ~ π₀}[ π_θ/π₀ · A^π₀ ] / (1 − γ) on the ring, its gradient and Fisher matrix.

    The factor 1/(1 − γ) puts L in the units of J; with it L is the first-order part of J(π_θ) − J(π₀).
    """

    road: RingRoad
    theta: NDArray

    def __call__(self, theta: NDArray) -> NDArray:
        """L_π₀(θ), (..., 2S) -> (...)."""
        scale = 1 / (1 - self.road.gamma)
        weighted = self.road.visitation(self.theta)[:, None] * self.road.advantage(self.theta) * scale
        return np.einsum("...sk,sk->...", self.road.policy(theta), weighted)

    def gradient(self) -> NDArray:
        """g = E[ ∇log π · A ] / (1 − γ), (2S,)."""
        road, std = self.road, np.exp(self.theta[self.road.cells :])
        z = (road.actions - self.theta[: road.cells, None]) / std[:, None]
        weight = road.policy(self.theta) * road.advantage(self.theta) * road.visitation(self.theta)[:, None]
        scores = np.stack([z / std[:, None], z**2 - 1])  # ∂ log π / ∂ mean, ∂ log π / ∂ log std
        return (scores * weight).sum(-1).ravel() / (1 - road.gamma)

    def fisher(self) -> NDArray:
        """F = E_{s ~ d^π₀}[ diag(1/σ_s², 2) ], (2S, 2S): cells do not share parameters, so it is diagonal."""
        visits, std = self.road.visitation(self.theta), np.exp(self.theta[self.road.cells :])
        return np.diag(np.concatenate([visits / std**2, 2 * visits]))

    def constant(self) -> float:
        """C = 4 γ max|A| / (1 − γ)² of Theorem 1 (Schulman et al. 2015, Theorem 1; D_TV² ≤ D_KL)."""
        gamma = self.road.gamma
        return float(4 * gamma * np.abs(self.road.advantage(self.theta)).max() / (1 - gamma) ** 2)

    def error(self, theta: NDArray) -> float:
        """|J(π_θ) − J(π₀) − L_π₀(θ)|, the left side of Theorem 1."""
        return float(abs(self.road.objective(theta) - self.road.objective(self.theta) - self(theta)))


def cell_kl(theta: NDArray, other: NDArray) -> NDArray:
    """D_KL(π_θ ‖ π_other) in each cell, (2S,) and (..., 2S) -> (..., S); the largest entry is D_KL^max."""
    halves = (torch.from_numpy(np.asarray(vector, dtype=float)).chunk(2, -1) for vector in (theta, other))
    return networks.gaussian_kl(*(part.unsqueeze(-1) for pair in halves for part in pair)).numpy()


def ball_surface(metric: NDArray, radius: float, count: int, rng: np.random.Generator) -> NDArray:
    """Steps ε with ½ εᵀ M ε = radius, (2d + count, d): both ways along every axis, then in random directions.

    M = F gives the surface of the Fisher ball; M = I with radius = ρ²/2 that of the Euclidean ball ‖ε‖ = ρ.
    """
    axes = np.concatenate([np.eye(len(metric)), -np.eye(len(metric))])
    # M = R Rᵀ: uniform directions of Rᵀε are uniform in the metric
    uniform = np.linalg.solve(np.linalg.cholesky(metric).T, rng.standard_normal((len(metric), count))).T
    steps = np.concatenate([axes, uniform])
    return steps * np.sqrt(2 * radius / np.einsum("ni,ij,nj->n", steps, metric, steps))[:, None]


def theorem1_table(
    road: RingRoad, theta: NDArray, fisher_delta: float, rho: float, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Both sides of Theorem 1 for policies on the Fisher and on the Euclidean `ball_surface` around θ₀.

    A row per policy: ball ("Fisher" or "Euclidean"), kl_max, kl_mean (under d^π₀), error (left side) and bound (right
    side, C · D_KL^max).
    """
    surrogate = RingSurrogate(road, np.asarray(theta, dtype=float))
    visits, constant = road.visitation(theta), surrogate.constant()
    balls = {"Fisher": (surrogate.fisher(), fisher_delta), "Euclidean": (np.eye(len(theta)), rho**2 / 2)}
    rows = []
    for ball, (metric, radius) in balls.items():
        for step in ball_surface(metric, radius, count, rng):
            kl = cell_kl(theta, theta + step)
            rows.append((ball, kl.max(), kl @ visits, surrogate.error(theta + step), constant * kl.max()))
    return pd.DataFrame(rows, columns=["ball", "kl_max", "kl_mean", "error", "bound"])


# --- Proposition 2: pessimism is a quantile ---


def fisher_step(gradient: NDArray, fisher: NDArray, delta: float) -> NDArray:
    """U_F(g, δ) of sharpness.py for an explicit matrix F (d, d), with conjugate gradient run to convergence."""
    matrix = torch.from_numpy(fisher)
    operator = Fisher(lambda v: matrix @ v, iterations=20 * len(gradient), tolerance=1e-14)
    return trust_region_step(torch.from_numpy(gradient), operator, delta).numpy()


def surrogate_std(gradient: NDArray, fisher: NDArray, n: float) -> float:
    """σ = sqrt(gᵀF⁻¹g / n): the standard deviation of the linearised surrogate under Q."""
    return float(np.sqrt(gradient @ np.linalg.solve(fisher, gradient) / n))


def sample_posterior(fisher: NDArray, n: float, count: int, rng: np.random.Generator) -> NDArray:
    """Draws of θ − θ₀ under Q = N(0, F⁻¹/n), (count, d)."""
    noise = rng.standard_normal((len(fisher), count))
    return np.linalg.solve(np.linalg.cholesky(fisher).T, noise).T / np.sqrt(POSITIVE("n", n))


def most_likely_in_tail(gradient: NDArray, fisher: NDArray, n: float, alpha: float) -> NDArray:
    """argmax_ε Q(θ₀ + ε)  s.t.  gᵀε ≤ z_α σ, found by SciPy's SLSQP without the help of Proposition 2.

    Raises RuntimeError when the optimiser does not converge.
    """
    limit = norm.ppf(alpha) * surrogate_std(gradient, fisher, n)
    scale = 1 / np.sqrt(n * np.diag(fisher))  # one natural unit per coordinate: SLSQP works badly on 1e-4
    precision, slope = n * fisher * np.outer(scale, scale), gradient * scale / abs(limit)
    found = minimize(
        lambda u: 0.5 * u @ precision @ u,  # −log Q(θ₀ + ε) up to a constant
        np.zeros(len(gradient)), jac=lambda u: precision @ u, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda u: -1 - slope @ u, "jac": lambda u: -slope},
        options={"ftol": 1e-15, "maxiter": 2000},
    )  # fmt: skip
    # The problem is convex, so a feasible point where −∇log Q ∝ g is the solution. The optimiser's own status is not
    # used: at a tolerance this near rounding, its line search may find no further descent at the solution itself.
    pull = precision @ found.x
    bend = pull - (pull @ slope) / (slope @ slope) * slope
    if not (slope @ found.x <= -1 + 1e-9 and np.linalg.norm(bend) <= 1e-5 * np.linalg.norm(pull)):
        raise RuntimeError(f"the constrained optimiser stopped without a solution: {found.message}")
    return found.x * scale


def random_problem(d: int, rng: np.random.Generator, condition: float = 100.0) -> tuple[NDArray, NDArray]:
    """A random gradient (d,) and Fisher matrix (d, d) whose eigenvalues span up to a factor `condition`."""
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    eigenvalues = condition ** rng.uniform(-0.5, 0.5, d)
    return rng.standard_normal(d), (rotation * eigenvalues) @ rotation.T


def proposition2_agreement(
    dimensions: Iterable[int], repetitions: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Compares ε_Down = U_F(−g, z_α²/2n) with the optimiser's point ε*, over random g, F, n and α.

    A row per problem: dimension, n, alpha and distance, ‖ε_Down − ε*‖_F / ‖ε*‖_F.
    """
    rows = []
    for dimension in np.repeat([*dimensions], repetitions):
        gradient, fisher = random_problem(dimension, rng)
        n, alpha = 10 ** rng.uniform(1, 5), 10 ** rng.uniform(-4, -0.5)
        best = most_likely_in_tail(gradient, fisher, n, alpha)
        gap = fisher_step(-gradient, fisher, delta_from_alpha(alpha, n)) - best
        rows.append((dimension, n, alpha, np.sqrt((gap @ fisher @ gap) / (best @ fisher @ best))))
    return pd.DataFrame(rows, columns=["dimension", "n", "alpha", "distance"])


def quantile_reached(
    surrogate: RingSurrogate, alpha: float, ns: Iterable[float], count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """How deep θ₀ + ε_Down really lies: P_Q( L(θ) ≤ L(θ₀ + ε_Down) ) with the surrogate *not* linearised.

    Proposition 2 predicts α; the curvature of L changes that when n is small and Q is wide. A row per n: n, delta,
    reached (the probability, from `count` draws), and its standard_error.
    """
    gradient, fisher = surrogate.gradient(), surrogate.fisher()
    rows = []
    for n in ns:
        delta = delta_from_alpha(alpha, n)
        level = surrogate(surrogate.theta + fisher_step(-gradient, fisher, delta))
        draws = surrogate(surrogate.theta + sample_posterior(fisher, n, count, rng))
        reached = float((draws <= level).mean())
        rows.append((n, delta, reached, np.sqrt(reached * (1 - reached) / count)))
    return pd.DataFrame(rows, columns=["n", "delta", "reached", "standard_error"])


# --- Proposition 3: which actions weigh more ---


def pessimistic_weight(action: NDArray, advantage_sign: NDArray, delta: float) -> NDArray:
    """g̃/g = (Δ/a) exp((a² − Δ²)/2),  Δ = a − ε,  ε = −sign(aA) sqrt(2δ)   (Proposition 3).

    The policy is N(θ, 1) at θ₀ = 0 and one sample (a, A) makes the whole batch. action: a in standard deviations, any
    shape, not zero (g = aA vanishes there). advantage_sign: the sign of A, broadcast against it. delta: δ_Down.
    """
    action, radius = np.asarray(action, dtype=float), np.sqrt(2 * AT_LEAST_0("delta", delta))
    shift = -np.sign(action * advantage_sign) * radius
    return shifted_weight(action[..., None], shift[..., None])


def shifted_weight(z: NDArray, shift: NDArray, log_std_change: NDArray | float = 0.0) -> NDArray:
    """The weight of an action at z when mean and log-std move by ζ and η; Proposition 3 in m dimensions.

    In units of the old standard deviations, the sample's gradient with respect to its mean is A z before the move and
    A exp((|z|² − |Δ|²)/2 − Σ η) e^{−η} Δ after it, with Δ = e^{−η}(z − ζ). The weight is the part of the second
    gradient along the first. z, shift: z and ζ, (..., m). log_std_change: η, (m,) or one number; zero in the paper.
    """
    change = np.broadcast_to(log_std_change, z.shape[-1:])
    moved = np.exp(-change) * (z - shift)
    ratio = np.exp(0.5 * (z**2 - moved**2).sum(-1) - change.sum())
    return ratio * (np.exp(-change) * moved * z).sum(-1) / (z**2).sum(-1)


def crossover(advantage_sign: int, delta: float) -> float:
    """The |a| at which the weight is one. Beyond it bad actions gain weight and good ones lose it; below, the reverse.

    For small δ it is 1 + sqrt(2δ)/2 for bad actions (A < 0) and 1 − sqrt(2δ)/2 for good ones. Raises ValueError for δ
    outside (0, 1/2], where the expansion's root need not exist.
    """
    delta = real("above 0 and at most 0.5", lambda value: 0 < value <= 0.5)("delta", delta)
    low = np.sqrt(2 * delta) if advantage_sign < 0 else 1e-9  # bad actions: the weight is 0 at |a| = sqrt(2δ)
    return float(
        brentq(lambda a: float(pessimistic_weight(a, advantage_sign, delta)) - 1, low, 10.0, xtol=1e-12)
    )


def sample_weights(
    actor: networks.GaussianActor, theta: torch.Tensor, observation: torch.Tensor, action: torch.Tensor
) -> pd.DataFrame:
    """The weight of every sample of a batch in g̃ = ∇L(θ) against its weight in g = ∇L(θ₀), for a real policy.

    Sample i contributes g_i = A_i ∇log π_θ₀(a_i|s_i) to g and g̃_i = A_i π_θ/π_θ₀ ∇log π_θ(a_i|s_i) to g̃. Its
    weight is the part of g̃_i along g_i, ⟨g̃_i, g_i⟩ / ⟨g_i, g_i⟩, over the parameters of the mean network;
    A_i cancels.
    actor: at θ₀. theta: (P,) the perturbed parameters. observation: (N, obs), normalised. action: (N, actions).
    A row per sample: distance, |z| = ‖(a − μ)/σ‖; weight; ratio, π_θ/π_θ₀; shift, ‖ζ‖, ζ = (μ_θ − μ)/σ; towards,
    ζ·z/|z|, how far the mean moved towards the action; predicted, `shifted_weight(z, ζ, η)`.
    """
    network, std = actor.mlp.num_parameters, torch.exp(actor.log_std())
    mean = actor.mean(observation)
    z, shift = (action - mean) / std, (actor.mean(observation, theta) - mean) / std

    def log_prob(parameters, one_observation, one_action):
        return actor.log_prob(one_observation[None], one_action[None], parameters)[0]

    score = torch.func.vmap(torch.func.grad(log_prob), in_dims=(None, 0, 0), chunk_size=250)
    weights = []
    for s, a in zip(observation.split(1000), action.split(1000), strict=True):
        before, after = score(actor.theta, s, a)[:, :network], score(theta, s, a)[:, :network]
        weights.append((before * after).sum(1) / before.square().sum(1))
    ratio = torch.exp(actor.log_prob(observation, action, theta) - actor.log_prob(observation, action))
    z, shift = z.double().numpy(), shift.double().numpy()
    change = (actor.log_std(theta) - actor.log_std()).double().numpy()
    distance = np.linalg.norm(z, axis=1)
    return pd.DataFrame({
        "distance": distance, "weight": (torch.cat(weights) * ratio).double().numpy(), "ratio": ratio.double().numpy(),
        "shift": np.linalg.norm(shift, axis=1), "towards": (z * shift).sum(1) / distance,
        "predicted": shifted_weight(z, shift, change),
    })  # fmt: skip
