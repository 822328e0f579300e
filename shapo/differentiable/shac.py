"""SHAC, the short-horizon actor-critic, and with a perturbation SHAC-ASAM: flat policies by first-order gradients.

    L(θ) = −1/(N h) Σ_i [ Σ_t γ^t R(s_t, a_t) + γ^h V(s_h) ]       (2) differentiated through the simulator
    ε    = ρ T²∇L / ‖T ∇L‖,  T = diag(|θ|)                         (9) `AdaptiveSAM`; none in SHAC
    θ    ← Adam(∇L(θ + ε))                                         (10) a second rollout from the same start states
    V    ← argmin E ‖V(s) − Ṽ(s)‖²,  Ṽ by TD(λ)                    (3)

The numbers are those of the paper's equations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from shapo.checks import NonFiniteError
from shapo.differentiable.config import RobotConfig
from shapo.differentiable.networks import NormedMLP, SquashedActor
from shapo.fisher import Euclidean
from shapo.networks import RunningNormalizer
from shapo.sharpness import sharpness_aware_gradient
from shapo.store import pack_tables, prefixed, restore_rng, rng_state, unpack_tables, unprefixed
from shapo.training import seeded_torch

FINAL_LEARNING_RATE = 1e-5  # of the linear decay


@dataclass
class Window:
    """h steps of N environments: what the actor's loss and the critic need of them. Arrays (h, N) unless said."""

    observation: list[Tensor] = field(default_factory=list)  # as acted on, not normalised, (N, obs) each
    final: list[Tensor] = field(
        default_factory=list
    )  # as observed after the step, before a restart, (N, obs) each
    reward: list[Tensor] = field(default_factory=list)
    terminated: list[Tensor] = field(default_factory=list)
    truncated: list[Tensor] = field(default_factory=list)
    diverged: list[Tensor] = field(default_factory=list)
    loss: Tensor | float = 0.0  # (2), with its graph


def td_lambda_targets(
    reward: Tensor, next_value: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Ṽ(s_t) = r_t + γ [(1 − λ) V(s_{t+1}) + λ Ṽ(s_{t+1})], and r_t + γ V(s_{t+1}) where the trajectory ends.

    All are (h, N). next_value: V of the state reached, 0 where that is a fall. ends: of the episode; the last row
    counts as one.
    """
    targets, after = torch.empty_like(reward), next_value[-1]
    for t in reversed(range(len(reward))):
        after = torch.where(ends[t], next_value[t], after) if t < len(reward) - 1 else next_value[t]
        targets[t] = reward[t] + gamma * ((1 - lambda_) * next_value[t] + lambda_ * after)
        after = targets[t]
    return targets


class SHACTrainer:
    """SHAC's loop: roll out a window, step the actor along its gradient, fit the critic."""

    def __init__(self, config: RobotConfig):
        self.config, self.algorithm = config, config.algorithm
        seeds = np.random.SeedSequence(config.seed)
        networks, self.noise_rng, self.minibatch_rng = (
            np.random.default_rng(child) for child in seeds.spawn(3)
        )
        self.env = config.make_env(config.num_envs, seed=int(seeds.generate_state(1)[0] >> 1))
        robot, shac = self.env.robot, self.algorithm
        self.actor = SquashedActor(robot.observations, shac.actor_hidden_sizes, robot.actions)
        self.critic = NormedMLP((robot.observations, *shac.critic_hidden_sizes, 1))
        self.theta = self.actor.initialise(networks).requires_grad_()
        self.phi = self.critic.initialise(networks).requires_grad_()
        self.target_phi = self.phi.detach().clone()
        self.optimizers = {
            "actor": torch.optim.Adam([self.theta], shac.actor_lr, shac.betas),
            "critic": torch.optim.Adam([self.phi], shac.critic_lr, shac.betas),
        }
        self.normalizer = RunningNormalizer(robot.observations)
        self.running = np.zeros((2, config.num_envs))  # return, length of the episodes under way
        self.epoch, self.totals = 0, {"failures": 0, "diverged": 0, "dropped_gradients": 0}
        self.progress: list[dict] = []
        self.episodes: list[dict] = []
        self.timing: list[dict] = []

    def _freeze_normaliser(self) -> None:
        statistics = self.normalizer.mean, self.normalizer.scale
        self._mean, self._scale = (torch.from_numpy(array).float() for array in statistics)

    def normalised(self, observation: Tensor) -> Tensor:
        """Observations scaled by the statistics of the windows before this one; differentiable."""
        return (observation - self._mean) * self._scale

    def rollout(self, theta: Tensor, noise: Tensor) -> Window:
        """A window under the policy of θ, from where the environments stand; noise: ξ (h, N, actions)."""
        window, gamma = Window(), self.algorithm.gamma
        observation = self.env.detach()
        discount = torch.ones(self.config.num_envs)
        for t, xi in enumerate(noise):
            window.observation.append(observation.detach())
            action = self.actor(theta, self.normalised(observation), xi)
            observation, reward, terminated, truncated, info = self.env.step(action)
            window.loss = window.loss - discount @ reward
            discount = discount * gamma
            # A fall is worth nothing more; what was cut off, by the clock or by the window, is worth V.
            cut_off = ~terminated if t == len(noise) - 1 else truncated
            if cut_off.any():
                value = self.value(self.target_phi, info["final_observation"])
                window.loss = window.loss - (discount * value)[cut_off].sum()
            discount = torch.where(terminated | truncated, 1.0, discount)
            for name, tensor in (
                ("final", info["final_observation"]), ("reward", reward), ("terminated", terminated),
                ("truncated", truncated), ("diverged", info["diverged"]),
            ):  # fmt: skip
                getattr(window, name).append(tensor.detach())
        window.loss = window.loss / noise[..., 0].numel()
        return window

    def value(self, phi: Tensor, observation: Tensor) -> Tensor:
        """V_φ(s), (N,)."""
        return self.critic(phi, self.normalised(observation)).squeeze(-1)

    def update_actor(self) -> tuple[Window, dict]:
        """One step of the actor; returns the window rolled out by the policy before it, and what to record."""
        shac, start, clock = self.algorithm, self._place(), [time.perf_counter()]
        noise = self.noise_rng.standard_normal((shac.horizon, *self.env.action.shape), np.float32)
        noise = torch.from_numpy(noise)
        windows, after, seconds = [], [], {"rollout": 0.0, "actor": 0.0}

        def gradient_at(theta: Tensor) -> Tensor:
            """∇ of the objective −L by one window; each starts in the same states, with the same noise."""
            self._put(start)
            theta = theta.detach().requires_grad_()
            clock.append(time.perf_counter())
            windows.append(self.rollout(theta, noise))
            after.append(self._place())
            clock.append(time.perf_counter())
            (gradient,) = torch.autograd.grad(-windows[-1].loss, theta)
            clock.append(time.perf_counter())
            seconds["rollout"] += clock[-2] - clock[-3]
            seconds["actor"] += clock[-1] - clock[-2]
            if not torch.isfinite(gradient).all():
                raise NonFiniteError("the gradient of the policy's loss became non-finite")
            return gradient

        theta, perturbation = self.theta.detach(), self.config.actor
        samples = (self.epoch + 1) * self.config.steps_per_epoch
        perturb = perturbation and (lambda gradient: perturbation(gradient, Euclidean(theta), samples))
        with seeded_torch(self.config.seed, self.epoch):
            gradient = sharpness_aware_gradient(gradient_at, theta, perturb)
        self._put(after[0])  # training goes on along the policy's own trajectory, not the perturbed one's
        self.theta.grad = -gradient
        norm = torch.nn.utils.clip_grad_norm_([self.theta], shac.max_grad_norm)
        self.optimizers["actor"].step()
        log = {"loss": float(windows[0].loss.detach()), "gradient_norm": float(norm)}
        if perturbation:
            log["loss_perturbed"] = float(windows[1].loss.detach())
        return windows[0], log | {"seconds": seconds}

    def fit_critic(self, window: Window) -> float:
        """Regresses V on the TD(λ) targets of the window; returns the mean loss of the last pass."""
        shac = self.algorithm
        stacked = {name: torch.stack(getattr(window, name)) for name in ("reward", "terminated", "truncated")}
        with torch.no_grad():
            observation = self.normalised(torch.cat(window.observation))
            next_value = self.value(self.target_phi, torch.cat(window.final)).view_as(stacked["reward"])
            next_value = torch.where(stacked["terminated"], 0.0, next_value)
            ends = stacked["terminated"] | stacked["truncated"]
            target = td_lambda_targets(
                stacked["reward"], next_value, ends, shac.gamma, shac.td_lambda
            ).flatten()
        for _ in range(shac.critic_passes):
            losses = []
            order = torch.from_numpy(self.minibatch_rng.permutation(len(target)))
            for index in order.chunk(shac.critic_minibatches):
                error = self.critic(self.phi, observation[index]).squeeze(-1) - target[index]
                loss = error.square().mean()
                (self.phi.grad,) = torch.autograd.grad(loss, self.phi)
                torch.nn.utils.clip_grad_norm_([self.phi], shac.max_grad_norm)
                self.optimizers["critic"].step()
                losses.append(float(loss.detach()))
        with torch.no_grad():
            self.target_phi.lerp_(self.phi, 1 - shac.target_critic_alpha)
        return float(np.mean(losses))

    def run_epoch(self) -> dict:
        """One iteration; returns its row of progress."""
        config, clock = self.config, [time.perf_counter()]
        self._freeze_normaliser()
        for name, rate in (("actor", self.algorithm.actor_lr), ("critic", self.algorithm.critic_lr)):
            decayed = rate + (FINAL_LEARNING_RATE - rate) * self.epoch / config.epochs
            self.optimizers[name].param_groups[0]["lr"] = decayed
        dropped = self.env.simulator.dropped_gradients
        window, log = self.update_actor()
        seconds = log.pop("seconds")
        clock.append(time.perf_counter())
        critic_loss = self.fit_critic(window)
        clock.append(time.perf_counter())
        self.normalizer.update(torch.cat(window.observation).double().numpy())
        self._check_parameters()
        finished = self._finished_episodes(window)
        self.totals["dropped_gradients"] += self.env.simulator.dropped_gradients - dropped
        self.epoch += 1
        row = {
            "epoch": self.epoch, "steps": self.epoch * config.steps_per_epoch, "episodes": len(finished),
            "episode_return": np.mean([e["return"] for e in finished]) if finished else np.nan,
            "episode_length": np.mean([e["length"] for e in finished]) if finished else np.nan,
            "reward": float(torch.stack(window.reward).mean()),
            "forward_velocity": float(torch.stack(window.final)[..., 5].mean()),
            **self.totals, **log, "critic_loss": critic_loss,
            "std": float(self.actor.log_std(self.theta.detach()).exp().mean()),
        }  # fmt: skip
        self.progress.append(row)
        self.timing.append(seconds | {"critics": clock[2] - clock[1], "total": clock[-1] - clock[0]})
        return row

    def _check_parameters(self) -> None:
        for name, parameters in (("actor", self.theta), ("critic", self.phi)):
            if not torch.isfinite(parameters).all():
                raise NonFiniteError(f"parameters of the {name} became non-finite")

    def _finished_episodes(self, window: Window) -> list[dict]:
        """Accounts for every step once; appends the episodes that ended, in the order of time."""
        finished, envs = [], self.config.num_envs
        start = self.epoch * self.config.steps_per_epoch
        for t, reward in enumerate(window.reward):
            self.running += (reward.numpy(), np.ones(envs))
            for i in (window.terminated[t] | window.truncated[t]).nonzero()[:, 0].tolist():
                episode_return, length = self.running[:, i]
                finished.append(
                    {
                        "steps": start + (t + 1) * envs, "env": i, "return": episode_return, "length": int(length),
                        "failed": bool(window.terminated[t][i]), "diverged": bool(window.diverged[t][i]),
                    }
                )  # fmt: skip
                self.running[:, i] = 0
        self.totals["failures"] += sum(episode["failed"] for episode in finished)
        self.totals["diverged"] += sum(episode["diverged"] for episode in finished)
        self.episodes += finished
        return finished

    def _place(self) -> tuple[dict, dict]:
        return self.env.state_dict(), self.env.rng_state()

    def _put(self, place: tuple[dict, dict]) -> None:
        self.env.load_state_dict(place[0])
        self.env.load_rng_state(place[1])

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Everything the next iteration depends on and everything recorded: (arrays, JSON-able values)."""
        place, rng = self._place()
        arrays = (
            {"running": self.running}
            | prefixed("env", place)
            | prefixed("normalizer", self.normalizer.state_dict())
        )
        for name in ("theta", "phi", "target_phi"):
            arrays[name] = getattr(self, name).detach().numpy().copy()
        for name, optimizer in self.optimizers.items():
            arrays |= prefixed(f"adam_{name}", _moments(optimizer))
        tables = {"progress": self.progress, "episodes": self.episodes, "timing": self.timing}
        meta = {
            "epoch": self.epoch, "totals": self.totals, "env_rng": rng,
            "noise_rng": rng_state(self.noise_rng), "minibatch_rng": rng_state(self.minibatch_rng),
        }  # fmt: skip
        return arrays | pack_tables(tables), meta

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        """Back to a state that `state` returned."""
        self._put((unprefixed("env", arrays), meta["env_rng"]))
        self.normalizer.load_state_dict(unprefixed("normalizer", arrays))
        self.running = arrays["running"].copy()
        with torch.no_grad():
            for name in ("theta", "phi", "target_phi"):
                getattr(self, name).copy_(torch.from_numpy(arrays[name]))
        for name, optimizer in self.optimizers.items():
            _set_moments(optimizer, unprefixed(f"adam_{name}", arrays))
        self.epoch, self.totals = meta["epoch"], dict(meta["totals"])
        self.noise_rng, self.minibatch_rng = (
            restore_rng(meta["noise_rng"]),
            restore_rng(meta["minibatch_rng"]),
        )
        for name, table in unpack_tables(arrays).items():
            setattr(self, name, table.to_dict("records"))


def _moments(optimizer: torch.optim.Adam) -> dict[str, np.ndarray]:
    """The state of an Adam with one parameter; empty before its first step."""
    (parameter,) = optimizer.param_groups[0]["params"]
    return {name: value.numpy().copy() for name, value in optimizer.state[parameter].items()}


def _set_moments(optimizer: torch.optim.Adam, arrays: dict[str, np.ndarray]) -> None:
    (parameter,) = optimizer.param_groups[0]["params"]
    optimizer.state[parameter] = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
