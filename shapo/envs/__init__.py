"""Vectors of environments of a task: `make_env(task, num_envs, seed)`. A new task that is replayed needs a line in the
table below; a task of the user's own needs none (`OwnTask`).
"""

from __future__ import annotations

from itertools import product
from threading import Lock

import shapo.envs.safety_gymnasium_compat  # isort: skip  # first: it imports gymnasium quietly
from shapo.checks import whole
from shapo.envs.batched import BatchedEnv, Task, VectorEnv
from shapo.envs.foreign import ForeignEnv, OwnTask, is_safety_id
from shapo.envs.locomotion import Ant, Walker2d
from shapo.envs.navigation import Button, Goal

__all__ = ["TASKS", "BatchedEnv", "OwnTask", "Task", "VectorEnv", "make_env", "task_of"]

# Settings of Sauté that OmniSafe tuned for one task; all others have its defaults, γ_s = 0.999 and a reward of −1.
_SAUTE = {"PointGoal1": {"saute_gamma": 0.9999, "unsafe_reward": -0.2}}
# Level 0 of the navigation tasks has no cost, so the limit of the other levels never binds there.
_BUILDERS = {
    Task(
        f"{name}-v0", f"Safety{name}-v0", cost_limit=10.0, failure_metric="cost rate", action_dim=2,
        **_SAUTE.get(name, {}),
    ): Goal if "Goal" in name else Button
    for name in map("".join, product(("Point", "Car"), ("Goal", "Button"), "012"))
} | {
    Task("Ant-v4", "Ant-v4", cost_limit=0.0, failure_metric="cumulative failures", action_dim=8): Ant,
    Task(
        "Walker2d-v4", "Walker2d-v4", cost_limit=0.0, failure_metric="cumulative failures", action_dim=6,
        tail_level=0.80,  # the 95 % quantile is near 1
    ): Walker2d,
}  # fmt: skip
_BUILDING = Lock()  # the first build imports and patches safety_gymnasium, one thread at a time
TASKS: dict[str, Task] = {task.name: task for task in _BUILDERS}


def task_of(task: str | OwnTask) -> Task | OwnTask:
    """Returns the task that a config's field `task` names: one of TASKS, or an `OwnTask`, which is returned as it is.
    Any other id of Safety-Gymnasium gives an `OwnTask` with the cost limit of our navigation tasks. Raises ValueError.
    """
    if isinstance(task, OwnTask):
        return task
    if isinstance(task, str) and task in TASKS:
        return TASKS[task]
    if is_safety_id(task):
        return OwnTask(task, cost_limit=10.0)
    raise ValueError(
        f"task must be one of {', '.join(TASKS)}, an id of Safety-Gymnasium, or an OwnTask, which has any environment "
        f"and a cost; got {task!r}"
    )


def make_env(task: str | OwnTask, num_envs: int = 1, seed: int = 0, *, threads: int = 1) -> VectorEnv:
    """Makes `num_envs` environments of a task, which are stepped together.

    task: see `task_of`. num_envs: n, at least 1. seed: seed of the first reset; environment i is the reference, or the
    user's environment, seeded with `seed + i`. threads: number of threads that step the simulators of TASKS; results do
    not depend on it.
    Raises ValueError or TypeError, naming the argument, and ImportError if safety-gymnasium is missing or another.
    """
    task, num_envs, threads = task_of(task), whole(1)("num_envs", num_envs), whole(1)("threads", threads)
    with _BUILDING:
        if isinstance(task, OwnTask):
            return ForeignEnv(task, num_envs, seed)
        return _BUILDERS[task](task, num_envs, seed, threads)
