"""Tasks, stepped together: `make_env(name, num_envs, seed)`, `TASKS`. Adding one is a line of the table below."""

from __future__ import annotations

from itertools import product
from threading import Lock

import shapo.envs.safety_gymnasium_compat  # isort: skip  # first: it imports gymnasium quietly
from shapo.envs.batched import BatchedEnv, Task
from shapo.envs.locomotion import Ant, Walker2d
from shapo.envs.navigation import Button, Goal

__all__ = ["TASKS", "BatchedEnv", "Task", "make_env"]

# Sauté's own numbers where OmniSafe sets them for a task.
_SAUTE = {"PointGoal1": {"saute_gamma": 0.9999, "unsafe_reward": -0.2}}
# Level 0 of the navigation tasks has no cost: the limit of the others never binds there.
_BUILDERS = {
    Task(
        f"{name}-v0", f"Safety{name}-v0", cost_limit=10.0, failure_metric="cost rate", action_dim=2,
        **_SAUTE.get(name, {}),
    ): Goal if "Goal" in name else Button
    for name in map("".join, product(("Point", "Car"), ("Goal", "Button"), "012"))
} | {
    Task("Ant-v4", "Ant-v4", cost_limit=0.0, failure_metric="cumulative failures", action_dim=8): Ant,
    Task("Walker2d-v4", "Walker2d-v4", cost_limit=0.0, failure_metric="cumulative failures", action_dim=6): Walker2d,
}  # fmt: skip
_BUILDING = Lock()  # the first build imports and patches safety_gymnasium, one thread at a time
TASKS: dict[str, Task] = {task.name: task for task in _BUILDERS}


def make_env(task: str, num_envs: int = 1, seed: int = 0, *, threads: int = 1) -> BatchedEnv:
    """Return `num_envs` environments of a task, stepped together.

    Args:
        task: a name in `TASKS`.
        num_envs: number of environments n, at least 1.
        seed: of the first reset; environment i replays the reference environment seeded with `seed + i`.
        threads: the simulators' steps are split over that many threads; the numbers do not depend on it.

    Raises:
        ValueError: unknown task, `num_envs` or `threads` below 1, or a seed out of range.
        TypeError: a number that is no integer.
        ImportError: safety-gymnasium is missing or has another version.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; valid tasks are {', '.join(TASKS)}")
    for name, value in (("num_envs", num_envs), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    with _BUILDING:
        return _BUILDERS[TASKS[task]](TASKS[task], num_envs, seed, threads)
