"""One episode, recorded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def record_episode(policy: Callable, env, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """One episode of a one-environment `env` from a fresh reset, seen from above (metres).

    Returns positions and goals (T, 2), hazards (k, 2), reward and cost (T,).
    """
    observation, _ = env.reset()
    hazards, rows, done = env.scene().get("hazards", np.zeros((1, 0, 2)))[0].copy(), [], False
    while not done:
        scene = env.scene()
        observation, reward, cost, terminated, truncated, _ = env.step(policy(observation, rng))
        rows.append((scene["agent"][0].copy(), scene["goal"][0].copy(), reward[0], cost[0]))
        done = terminated[0] or truncated[0]
    columns = zip(("positions", "goals", "reward", "cost"), zip(*rows, strict=True), strict=True)
    return {"hazards": hazards} | {name: np.array(values) for name, values in columns}
