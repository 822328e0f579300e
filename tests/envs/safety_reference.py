"""Driving a navigation task and safety_gymnasium's own environments together, comparing every number."""

from collections import Counter

import numpy as np
import pytest
from goal_seeker import seek_goal

from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium


def make_references(task, count):
    return [import_safety_gymnasium().make(task.reference) for _ in range(count)]


def both_reset(env, references, seed):
    """Reset both from a seed; return the references' observations."""
    ours, _ = env.reset(seed=seed)
    theirs = np.array([reference.reset(seed=seed + i)[0] for i, reference in enumerate(references)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    return theirs


def compare(env, references, observation, steps, noise_seed):
    """Drive both with the same actions, chosen from the references' observations; count what happened.

    Returns the sums of what the references' `info` held (`goal_met`, `cost_hazards`, ...), the number of
    `episodes` that ended, of steps whose info had `no cost_buttons`, and of goals met `at once` after another.
    """
    rng = np.random.default_rng(noise_seed)
    seen, met = Counter(), np.zeros(env.num_envs, dtype=bool)
    for _ in range(steps):
        action = seek_goal(observation, 0.3 * rng.standard_normal((env.num_envs, 2)))
        ours, reward, cost, terminated, truncated, info = env.step(action)
        for i, reference in enumerate(references):
            row, its_reward, its_cost, its_end, its_limit, its_info = reference.step(action[i])
            assert reward[i] == pytest.approx(its_reward, rel=0, abs=1e-12)
            assert cost[i] == pytest.approx(its_cost, rel=0, abs=1e-12)
            assert (terminated[i], truncated[i]) == (its_end, its_limit)
            assert info["goal_met"][i] == its_info.get("goal_met", False)
            seen.update(its_info)
            seen["no cost_buttons"] += "cost_buttons" not in its_info
            seen["at once"] += bool(info["goal_met"][i] and met[i])
            if its_end or its_limit:
                np.testing.assert_allclose(info["final_observation"][i], row, rtol=0, atol=1e-9)
                row, _ = reference.reset()
                seen["episodes"] += 1
            observation[i] = row
        met = info["goal_met"]
        np.testing.assert_allclose(ours, observation, rtol=0, atol=1e-9)
    return seen
