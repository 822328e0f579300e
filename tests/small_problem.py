"""A small policy with a batch, in double precision, and the update's ingredients written out densely."""

import math

import numpy as np
import torch
from torch.distributions import Normal

from shapo.algorithms.advantages import Batch
from shapo.algorithms.networks import GaussianActor

BALL = {"target_kl": 0.01, "cg_damping": 0.1}  # of the whole action: what a bare baseline has to be told


def make_problem(seed=0, samples=400):
    """An actor, and a batch whose reward and cost both like large first actions: they pull against each other."""
    rng = np.random.default_rng(seed)
    actor = GaussianActor(3, 2, (8, 8), rng)
    actor.theta = actor.theta.double()
    obs = torch.from_numpy(rng.standard_normal((samples, 3)))
    action = torch.from_numpy(actor.sample(obs, rng))
    reward = action[:, 0] - (action[:, 1] - obs[:, 1]).square() + 0.5
    cost = (action[:, 0] > 0.5).double() + 0.3 * obs[:, 2]
    batch = Batch(obs, action, torch.stack([reward, cost]), torch.zeros(2, samples))
    batch.episode_length = 100.0
    return actor, batch


class Dense:
    """The surrogate, its gradient and F + 0.1 I of an actor and a batch, from their definitions by autograd."""

    def __init__(self, actor, batch):
        self.actor, self.batch, self.theta0 = actor, batch, actor.theta.clone()
        self.policy0 = self.policy(self.theta0)
        kl = lambda t: torch.distributions.kl_divergence(self.policy0, self.policy(t)).sum(-1).mean()  # noqa: E731
        hessian = torch.autograd.functional.hessian(kl, self.theta0)
        self.fisher = hessian + 0.1 * torch.eye(len(self.theta0), dtype=torch.float64)

    def policy(self, theta):
        return Normal(self.actor.mean(self.batch.observation, theta), self.actor.log_std(theta).exp())

    def surrogate(self, theta, advantage):
        log_ratio = (
            self.policy(theta).log_prob(self.batch.action) - self.policy0.log_prob(self.batch.action)
        ).sum(-1)
        return (log_ratio.exp() * advantage).mean()

    def gradient(self, theta, advantage):
        return torch.autograd.functional.jacobian(lambda t: self.surrogate(t, advantage), theta)

    def kl(self, theta):
        return float(torch.distributions.kl_divergence(self.policy0, self.policy(theta)).sum(-1).mean())

    def u(self, gradient, delta):
        natural = torch.linalg.solve(self.fisher, gradient)
        return math.sqrt(2 * delta / float(gradient @ natural)) * natural


def reward_and_cost_advantages(batch):
    a_r, a_c = batch.advantage
    return (a_r - a_r.mean()) / a_r.std(), a_c - a_c.mean()


def taken(log):
    """The factor by which the line search shortened the step."""
    return 0.8 ** (log["line_search_trials"] - 1)
