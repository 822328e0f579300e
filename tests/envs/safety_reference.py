"""Driving a navigation task and safety_gymnasium's own environments together, comparing every number."""

from collections import Counter

import numpy as np
from goal_seeker import seek_goal

from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium

ATOL = 1e-14  # of observations: a few last bits of sums that are ordered differently


def make_references(task, count):
    return [import_safety_gymnasium().make(task.reference) for _ in range(count)]


def both_reset(env, references, seed):
    """Reset both from a seed; return the references' observations."""
    ours, _ = env.reset(seed=seed)
    theirs = np.array([reference.reset(seed=seed + i)[0] for i, reference in enumerate(references)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
    return theirs


def compare(env, references, observation, steps, noise_seed):
    """Drive both with the same actions, chosen from the references' observations; count what happened.

    Returns the sums of what the references' `info` held (`goal_met`, `cost_hazards`, ...) and the number of `episodes`
    that ended.
    """
    rng, seen = np.random.default_rng(noise_seed), Counter()
    for _ in range(steps):
        action = seek_goal(observation, 0.3 * rng.standard_normal((env.num_envs, 2)))
        ours, reward, cost, terminated, truncated, info = env.step(action)
        for i, reference in enumerate(references):
            row, its_reward, its_cost, its_end, its_limit, its_info = reference.step(action[i])
            assert (reward[i], cost[i]) == (its_reward, its_cost)
            assert (terminated[i], truncated[i]) == (its_end, its_limit)
            assert info["goal_met"][i] == its_info.get("goal_met", False)
            seen.update(its_info)
            if its_end or its_limit:
                np.testing.assert_allclose(info["final_observation"][i], row, rtol=0, atol=ATOL)
                row, _ = reference.reset()
                seen["episodes"] += 1
            observation[i] = row
        np.testing.assert_allclose(ours, observation, rtol=0, atol=ATOL)
    return seen
