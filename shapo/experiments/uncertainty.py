"""One update of a trained run: how far SHAPO turns it, where it moves the policy, and what of it is noise.

Notebook 91 asks the first question, notebook 14 the others: is sharpness a proxy of epistemic uncertainty? If so,
ε_Down should move the policy more in states it has seldom visited, and gᵀF⁻¹g, the sharpness that sets σ² = gᵀF⁻¹g/n in
Proposition 2, should tell how much the gradient differs between batches.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from shapo.algorithms.advantages import Batch
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import gaussian_kl
from shapo.algorithms.trainer import Trainer
from shapo.algorithms.trust_region import Surrogate
from shapo.experiments.safety import EPISODE
from shapo.runs.run import Run
from shapo.runs.store import unprefixed
from shapo.runs.train import seeded_torch
from shapo.sharpness import EuclideanSAM, Fisher, Perturbation, conjugate_gradient


class _Probe:
    """A perturbation that records its gradient and Fisher operator, and moves nothing."""

    def __call__(self, gradient: torch.Tensor, fisher: Fisher, samples: int) -> torch.Tensor:
        self.gradient, self.fisher = gradient, fisher
        return torch.zeros_like(gradient)


def policy_of(run: Run) -> Trainer:
    """A trainer with the networks, the normaliser and the multiplier that a run ended with, in fresh environments."""
    trainer, (arrays, meta) = Trainer(run.config), run.load()
    for name in ("actor", "critics", "normalizer"):
        getattr(trainer, name).load_state_dict(unprefixed(name, arrays))
    trainer.epoch, trainer.algorithm_state = meta["epoch"], dict(meta["algorithm"])
    return trainer


def independent_batches(trainer: Trainer, count: int, seed: int) -> Iterable[Batch]:
    """Batches of a trainer's policy, each from fresh environments. The policy and its multiplier do not change."""
    config, state = trainer.config, trainer.algorithm_state
    scale = {name: np.copy(value) for name, value in trainer.normalizer.state_dict().items()}
    for child in np.random.SeedSequence([seed, config.seed]).spawn(count):
        trainer.env = config.make_env(config.num_envs, seed=int(child.generate_state(1)[0] >> 1))
        trainer.observation, _ = trainer.env.reset()
        trainer.rngs["action"] = np.random.default_rng(child)
        trainer.running[:] = 0
        batch, *_ = trainer.next_batch()
        trainer.algorithm_state = state
        trainer.normalizer.load_state_dict(scale)
        yield batch


def steps_of(
    trainer: Trainer, batch: Batch, perturbations: Mapping[object, Perturbation | None]
) -> tuple[dict[object, torch.Tensor], _Probe]:
    """The accepted step (P,) of the next update under each perturbation, and a probe that holds g and F at θ₀.

    The policy does not change.
    """
    actor, theta0, probe = trainer.actor, trainer.actor.theta, _Probe()
    samples = (trainer.epoch + 1) * trainer.config.steps_per_epoch
    steps = {}
    for name, perturbation in {probe: probe, **perturbations}.items():
        with seeded_torch(trainer.config.seed, trainer.epoch):
            trainer.algorithm.update_actor(actor, batch, perturbation, samples, trainer.algorithm_state)
        steps[name], actor.theta = actor.theta - theta0, theta0
    steps.pop(probe)
    return steps, probe


def angle(u: torch.Tensor, v: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Degrees between two steps in the metric v ↦ F v; nan if one is zero. Here F has the damping of the steps."""
    cosine = (u @ product(v)) / torch.sqrt((u @ product(u)) * (v @ product(v)))
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def turns(
    trainer: Trainer, perturbations: Mapping[object, Perturbation], seed: int = 0
) -> dict[object, float]:
    """Degrees by which each perturbation turns the baseline's step on one batch."""
    (batch,) = independent_batches(trainer, 1, seed)
    steps, probe = steps_of(trainer, batch, {"vanilla": None, **perturbations})
    return {name: angle(steps["vanilla"], steps[name], probe.fisher) for name in perturbations}


def turn_of_batches(trainer: Trainer, seed: int = 0) -> float:
    """Degrees between the baseline's steps on two independent batches."""
    batches = independent_batches(trainer, 2, seed)
    (first, _), (second, probe) = (steps_of(trainer, batch, {"": None}) for batch in batches)
    return angle(first[""], second[""], probe.fisher)


def critics_uphill(trainer: Trainer, radii: Iterable[float], seed: int = 0) -> pd.DataFrame:
    """A row per critic and ρ: the length ‖φ‖ of its parameters, ρ/‖φ‖, and the relative rise of its loss on a batch at
    φ + ρ ∇ℓ/‖∇ℓ‖, where SAM takes the gradient.
    """
    (batch,) = independent_batches(trainer, 1, seed)
    critics, phi = trainer.critics, trainer.critics.theta
    x, y = batch.observation.expand(2, *batch.observation.shape), batch.target.unsqueeze(-1)
    gradient, lengths = critics.loss_gradient(x, y, phi), phi.norm(dim=1).tolist()

    def loss(theta: torch.Tensor) -> torch.Tensor:
        error = critics.values(batch.observation, theta) - batch.target
        return error.square().mean(1) + critics.l2 * theta.square().sum(1)

    rows, unmoved = {}, loss(phi)
    for rho in radii:
        rises = loss(phi + EuclideanSAM(rho)(-gradient)) / unmoved - 1
        for name, length, rise in zip(("reward", "cost"), lengths, rises.tolist(), strict=True):
            rows[name, rho] = {"length": length, "ρ / length": rho / length, "rise of the loss": rise}
    return pd.DataFrame(rows).T.rename_axis(["critic", "ρ"])


def rarity(states: ArrayLike, among: ArrayLike, neighbours: int = 10) -> NDArray:
    """Distances (n,) of states (n, d) to their k-th nearest in a sample (m, d); large where the sample is sparse."""
    return cKDTree(among).query(states, [neighbours])[0][:, 0]


def moved_where_rare(
    trainer: Trainer, perturbations: Mapping[str, Perturbation], count: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """A row for each of `count` states of a batch: its rarity in another batch of the policy, and the KL(π₀ ‖ π_θ₀+ε)
    at the state under each perturbation, as a share of the mean over the states.
    """
    batch, other = independent_batches(trainer, 2, seed)
    _, probe = steps_of(trainer, batch, {})
    actor, samples = trainer.actor, (trainer.epoch + 1) * trainer.config.steps_per_epoch
    size = len(batch.observation)
    states = batch.observation[np.random.default_rng(seed).choice(size, min(count, size), replace=False)]
    table = {"rarity": rarity(states.numpy(), other.observation.numpy())}
    for name, perturbation in perturbations.items():
        with seeded_torch(seed, 0):
            theta = actor.theta + perturbation(probe.gradient, probe.fisher, samples)
        now = actor.mean(states), actor.log_std()
        kl = gaussian_kl(*now, actor.mean(states, theta), actor.log_std(theta)).double().numpy()
        table[name] = kl / kl.mean()
    return pd.DataFrame(table)


def follows_rarity(table: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of rarity and KL, for each perturbation of `moved_where_rare`."""
    return pd.Series({name: spearmanr(table.rarity, table[name]).statistic for name in table.columns[1:]})


def episode_gradients(trainer: Trainer, batches: int, seed: int = 0) -> tuple[NDArray, Fisher]:
    """The surrogate's gradients (batches · environments, P), each on one environment's share of a batch, and F.

    The batches are independent. If every episode lasts EPISODE steps and a batch has one episode per environment, a row
    is the gradient of an episode. CPO is not supported: its objective is solved for on the whole batch.
    """
    actor, rows = trainer.actor, []
    for batch in independent_batches(trainer, batches, seed):
        advantage, envs = trainer.algorithm.advantage(trainer.algorithm_state, batch), batch.episode.shape[1]
        for env in range(envs):
            part = replace(batch, observation=batch.observation[env::envs], action=batch.action[env::envs])
            rows.append(Surrogate(actor, part).gradient(actor.theta, advantage[env::envs]).double().numpy())
    damping = trainer.algorithm.cg_damping
    return np.array(rows), GaussianFisher(actor, batch.observation[::4], damping=damping, iterations=30)


def products(gradients: NDArray, fisher: Fisher) -> NDArray:
    """The matrix (E, E) of gᵢᵀF⁻¹gⱼ, by one solve for each of the gradients (E, P)."""
    solved = []
    for gradient in torch.from_numpy(gradients).to(fisher.theta.dtype):
        x, *_ = conjugate_gradient(fisher, gradient / gradient.norm(), iterations=fisher.iterations)
        solved.append((gradient.norm() * x).double().numpy())
    table = gradients @ np.array(solved).T
    return (table + table.T) / 2


def noise(products: NDArray, sizes: Iterable[int], steps: int = EPISODE) -> pd.DataFrame:
    """How sharpness and the gradient's variance between batches depend on n, from `products` of independent gradients.

    A row per size, the number of gradients averaged in a batch. n: steps in the batch. sharpness: mean of gᵀF⁻¹g over
    disjoint batches. variance: variance of g between them, in the norm of F⁻¹. along: variance of gᵀx between them, for
    x = F⁻¹ḡ, where ḡ is the mean of all gradients. predicted: σ² = ḡᵀF⁻¹ḡ / n of Proposition 2.
    """
    rows = []
    for size in sizes:
        count = len(products) // size
        batches = np.kron(np.eye(count), np.full(size, 1 / size))  # (batches, gradients)
        batches = np.pad(batches, ((0, 0), (0, len(products) - count * size)))
        within = batches @ products @ batches.T
        apart = (np.trace(within) - within.sum() / count) / (count - 1) if count > 1 else np.nan
        along = (batches @ products.mean(1)).var(ddof=1) if count > 1 else np.nan
        n = size * steps
        rows.append([n, np.trace(within) / count, apart, along, products.mean() / n])
    return pd.DataFrame(rows, columns=["n", "sharpness", "variance", "along", "predicted"])
