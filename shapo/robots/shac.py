"""SHAC, the short-horizon actor-critic; with a perturbation, SHAC-ASAM: flat policies by first-order gradients.

    L(θ) = −1/(N h) Σ_i [ Σ_t γ^t R(s_t, a_t) + γ^h V(s_h) ]       (2) differentiated through the simulator
    ε    = ρ T²∇L / ‖T ∇L‖,  T = diag(|θ|)                         (9) `AdaptiveSAM`; none in SHAC
    θ    ← Adam(∇L(θ + ε))                                         (10) a second rollout from the same start states
    V    ← argmin E ‖V(s) − Ṽ(s)‖²,  Ṽ by TD(λ)                    (3)

With `ascent_envs`, ε comes from the first few robots only: a cheaper SHAC-ASAM (notebook 21 compares the two).
The numbers in brackets are those of the paper's equations.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.networks import RunningNormalizer
from shapo.checks import NonFiniteError, epsilon_of, try_out
from shapo.robots.env import DifferentiableEnv
from shapo.robots.networks import NormedMLP, SquashedActor
from shapo.robots.trainer import RobotTrainer, Window
from shapo.runs.identity import RunConfig
from shapo.runs.store import prefixed, unprefixed
from shapo.runs.train import seeded_torch
from shapo.sharpness import Euclidean, sharpness_aware_gradient

FINAL_LEARNING_RATE = 1e-5  # to which the rates of actor and critic decay linearly


def td_lambda_targets(
    reward: Tensor, next_value: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Ṽ(s_t) = r_t + γ [(1 − λ) V(s_{t+1}) + λ Ṽ(s_{t+1})], and r_t + γ V(s_{t+1}) where the trajectory ends.

    All are (h, N). next_value: V of the state reached, 0 after a fall. ends: end of an episode; the last row is one.
    """
    targets, after = torch.empty_like(reward), next_value[-1]
    for t in reversed(range(len(reward))):
        after = torch.where(ends[t], next_value[t], after)
        targets[t] = reward[t] + gamma * ((1 - lambda_) * next_value[t] + lambda_ * after)
        after = targets[t]
    return targets


class SHACTrainer(RobotTrainer):
    """SHAC's training loop: roll out a window, step the actor along its gradient, fit the critic."""

    def __init__(self, config: RunConfig):
        super().__init__(config, ("noise", "minibatch"), gradients=True)
        few = config.ascent_envs
        self.ascent_env = config.make_env(few) if few else self.env
        robot, shac, networks = self.env.robot, self.algorithm, self.networks_rng
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
        with seeded_torch(config.seed):
            try_out(config.actor, Euclidean(self.theta.detach().clone()), config.steps_per_epoch)

    def _freeze_normaliser(self) -> None:
        statistics = self.normalizer.mean, self.normalizer.scale
        self._mean, self._scale = (torch.from_numpy(array).float() for array in statistics)

    def normalised(self, observation: Tensor) -> Tensor:
        """Observations scaled by the statistics of earlier windows; differentiable."""
        return (observation - self._mean) * self._scale

    def rollout(
        self, theta: Tensor, noise: Tensor, weight: Tensor | None = None, env: DifferentiableEnv | None = None
    ) -> Window:
        """Rolls out a window under the policy of θ, from the environments' current states, with its loss (2).

        noise: ξ (h, N, actions). weight: (N,) of each robot in the loss, 1 by default. env: None for the run's own.
        """
        window, gamma, env = Window(), self.algorithm.gamma, env or self.env
        observation = env.detach()
        weight = torch.ones(env.num_envs) if weight is None else weight
        discount = weight
        for t, xi in enumerate(noise):
            before, action = observation, self.actor(theta, self.normalised(observation), xi)
            observation, reward, terminated, truncated, info = env.step(action)
            window.append(before, reward, terminated, truncated, info)
            window.loss = window.loss - discount @ reward
            discount = discount * gamma
            # After a fall the value is 0. Episodes cut off, by the time limit or by the window's end, have the value V.
            cut_off = ~terminated if t == len(noise) - 1 else truncated
            if cut_off.any():
                value = self.value(self.target_phi, info["final_observation"])
                window.loss = window.loss - (discount * value)[cut_off].sum()
            discount = torch.where(terminated | truncated, weight, discount)
        window.loss = window.loss / noise[..., 0].numel()
        return window

    def value(self, phi: Tensor, observation: Tensor) -> Tensor:
        """V_φ(s), (N,)."""
        return self.critic(phi, self.normalised(observation)).squeeze(-1)

    def update_actor(self) -> tuple[Window, dict]:
        """Moves the actor by one step; returns the window from which training continues, and what to record."""
        shac, start = self.algorithm, self.snapshot()
        shape = shac.horizon, *self.env.action.shape
        noise = torch.from_numpy(self.rngs["noise"].standard_normal(shape, np.float32))
        windows, after, seconds = [], [], {"rollout": 0.0, "actor": 0.0}
        theta, perturbation, few = self.theta.detach(), self.config.actor, self.config.ascent_envs

        def gradient_at(theta: Tensor) -> Tensor:
            """∇(−L) on one window; all windows of an update start in the same states, with the same noise."""
            env = self.env if windows else self.ascent_env
            self.restore_envs(start, env)
            theta = theta.detach().requires_grad_()
            began = time.perf_counter()
            windows.append(self.rollout(theta, noise[:, : env.num_envs], env=env))
            after.append(self.snapshot())
            rolled_out = time.perf_counter()
            (gradient,) = torch.autograd.grad(-windows[-1].loss, theta)
            seconds["rollout"] += rolled_out - began
            seconds["actor"] += time.perf_counter() - rolled_out
            if not torch.isfinite(gradient).all():
                raise NonFiniteError("the gradient of the policy's loss became non-finite")
            return gradient

        samples = (self.epoch + 1) * self.config.steps_per_epoch

        def epsilon(gradient: Tensor) -> Tensor:
            return epsilon_of(perturbation, gradient, Euclidean(theta.clone()), samples)

        with seeded_torch(self.config.seed, self.epoch):
            gradient = sharpness_aware_gradient(gradient_at, theta, perturbation and epsilon)
        kept = -1 if self.config.along_perturbed else 0
        self.restore_envs(after[kept])
        self.theta.grad = -gradient
        norm = torch.nn.utils.clip_grad_norm_([self.theta], shac.max_grad_norm)
        self.optimizers["actor"].step()
        loss = np.nan if few else float(windows[0].loss.detach())
        log = {"loss": loss, "gradient_norm": float(norm)}
        if perturbation:
            log["loss_perturbed"] = float(windows[1].loss.detach())
        return windows[kept], log | {"seconds": seconds}

    def fit_critic(self, window: Window) -> float:
        """Fits V to the window's TD(λ) targets and updates the target critic; returns the last pass's mean loss."""
        shac = self.algorithm
        reward, fell, cut_off = map(torch.stack, (window.reward, window.terminated, window.truncated))
        with torch.no_grad():
            observation = self.normalised(torch.cat(window.observation))
            next_value = self.value(self.target_phi, torch.cat(window.final)).view_as(reward)
            next_value = torch.where(fell, 0.0, next_value)
            target = td_lambda_targets(reward, next_value, fell | cut_off, shac.gamma, shac.td_lambda)
            target = target.flatten()
        for _ in range(shac.critic_passes):
            losses = []
            order = torch.from_numpy(self.rngs["minibatch"].permutation(len(target)))
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
        """Runs one iteration; returns its row of progress."""
        config, clock = self.config, [time.perf_counter()]
        self._freeze_normaliser()
        for name, rate in (("actor", self.algorithm.actor_lr), ("critic", self.algorithm.critic_lr)):
            decayed = rate + (FINAL_LEARNING_RATE - rate) * self.epoch / config.epochs
            self.optimizers[name].param_groups[0]["lr"] = decayed
        dropped = self._dropped_gradients()
        window, log = self.update_actor()
        seconds = log.pop("seconds")
        clock.append(time.perf_counter())
        critic_loss = self.fit_critic(window)
        clock.append(time.perf_counter())
        self.normalizer.update(torch.cat(window.observation).double().numpy())
        self.check_parameters(actor=[self.theta], critic=[self.phi])
        self.totals["dropped_gradients"] += self._dropped_gradients() - dropped
        std = self.actor.log_std(self.theta.detach()).exp().mean()
        log |= {"critic_loss": critic_loss, "std": float(std)}
        seconds |= {"critics": clock[2] - clock[1], "total": time.perf_counter() - clock[0]}
        return self.account(window, log, seconds)

    def _dropped_gradients(self) -> int:
        return sum(env.simulator.dropped_gradients for env in {self.env, self.ascent_env})

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, meta = super().state()
        arrays |= prefixed("normalizer", self.normalizer.state_dict())
        for name in ("theta", "phi", "target_phi"):
            arrays[name] = getattr(self, name).detach().numpy().copy()
        for name, optimizer in self.optimizers.items():
            arrays |= prefixed(f"adam_{name}", _moments(optimizer))
        return arrays, meta

    def load_networks(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Loads policy, target critic and scale of observations, from a checkpoint or from the networks shipped."""
        with torch.no_grad():
            self.theta.copy_(torch.tensor(arrays["theta"]))
            self.target_phi.copy_(torch.tensor(arrays["target_phi"]))
        self.normalizer.load_state_dict(unprefixed("normalizer", arrays))
        self._freeze_normaliser()

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        super().restore(arrays, meta)
        self.load_networks(arrays)
        with torch.no_grad():
            self.phi.copy_(torch.tensor(arrays["phi"]))
        for name, optimizer in self.optimizers.items():
            _set_moments(optimizer, unprefixed(f"adam_{name}", arrays))


def _moments(optimizer: torch.optim.Adam) -> dict[str, np.ndarray]:
    """The state of an Adam optimiser with one parameter; empty before its first step."""
    (parameter,) = optimizer.param_groups[0]["params"]
    return {name: value.numpy().copy() for name, value in optimizer.state[parameter].items()}


def _set_moments(optimizer: torch.optim.Adam, arrays: dict[str, np.ndarray]) -> None:
    (parameter,) = optimizer.param_groups[0]["params"]
    optimizer.state[parameter] = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
