"""TRPO of sb3-contrib on gymnasium's robots, for comparison with ours in `experiments.safety.unconstrained`.

python -m shapo.peers.sb3        trains what `figures/data/sb3.csv` holds: two tasks, three seeds, 1 M steps, twice

Gymnasium's robots charge the square of the action that they are given. sb3 clips an action before the task sees it,
our trainer does not: so sb3-contrib's trains both ways.
"""

from __future__ import annotations

import json
from itertools import product

import gymnasium
import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from shapo.algorithms.config import Config
from shapo.experiments.safety import available_runs, unconstrained
from shapo.peers.measuring import at_once
from shapo.runs.run import provenance
from shapo.runs.shipped import data_folder
from shapo.runs.store import write_atomically
from shapo.runs.train import one_thread

SIDES = {True: "sb3-contrib", False: "sb3-contrib unclipped"}  # by `clipped`


class Unclipped(gymnasium.Wrapper):
    """The task under bounds that no action reaches, so that sb3's clipping changes none; MuJoCo limits the torque."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-1e6, 1e6, env.action_space.shape)


def train(config: Config, clipped: bool = True) -> pd.DataFrame:
    """Trains sb3-contrib's TRPO at the settings of a config. Columns, a row per epoch: task, side, seed, steps, and
    episode_return, the mean over the episodes that ended in the epoch.

    clipped: whether the task sees actions clipped to its bounds, as sb3 does, or as they were sampled, as ours. Its KL
    is a mean over components, as OmniSafe's, with radius 0.01 and damping 0.1. Only observations are normalised.
    """
    from sb3_contrib import TRPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    rows = []

    class Epochs(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.returns = []

        def _on_step(self) -> bool:
            self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            return True

        def _on_rollout_end(self) -> None:
            mean = sum(self.returns) / len(self.returns) if self.returns else float("nan")
            rows.append((config.task, SIDES[clipped], config.seed, self.num_timesteps, mean))

    with one_thread():
        wrapper = None if clipped else Unclipped
        envs = make_vec_env(config.task, config.num_envs, seed=config.seed, wrapper_class=wrapper)
        TRPO(
            "MlpPolicy", VecNormalize(envs, norm_reward=False), device="cpu", seed=config.seed,
            n_steps=config.steps_per_epoch // config.num_envs,
            gamma=config.gamma, gae_lambda=config.gae_lambda, batch_size=config.minibatch_size,
            n_critic_updates=config.critic_passes, learning_rate=config.critic_lr,
        ).learn(config.total_steps, callback=Epochs())  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "side", "seed", "steps", "episode_return"])


def beside(profile: str) -> dict[str, dict[str, list[pd.DataFrame]]]:
    """Task -> side ("ours", SIDES) -> a table with steps and episode_return per seed; only what is there."""
    found: dict = {}
    for (task, *_), runs in available_runs(unconstrained(profile)).items():
        found.setdefault(task, {})["ours"] = [run.progress for run in runs]
    store = data_folder() / "sb3.csv"
    keys = ["task", "side", "seed"]
    for (task, side, _), table in pd.read_csv(store).groupby(keys) if store.exists() else ():
        found.setdefault(task, {}).setdefault(side, []).append(table)
    return found


def differences(sides: dict[str, dict[str, list[pd.DataFrame]]]) -> pd.DataFrame:
    """Ours minus sb3-contrib's mean return of the last quarter, per task and side of theirs; Welch's 95 % interval.

    sides: from `beside`. Where either side has fewer than two runs, there is no interval.
    """
    ends = {
        (task, side): [t[t.steps > 0.75 * t.steps.max()].episode_return.mean() for t in tables]
        for task, found in sides.items()
        for side, tables in found.items()
    }
    rows = []
    for task, peer in product(sides, SIDES.values()):
        ours, theirs = ends.get((task, "ours"), []), ends.get((task, peer), [])
        row = {"task": task, "peer": peer}
        row |= {"ours": np.mean(ours or np.nan), "theirs": np.mean(theirs or np.nan)}
        row |= {"difference": row["ours"] - row["theirs"], "low": np.nan, "high": np.nan}
        if min(len(ours), len(theirs)) >= 2:
            row["low"], row["high"] = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
        rows.append(row | {"runs of ours": len(ours), "runs of theirs": len(theirs)})
    return pd.DataFrame(rows)


def main(profile: str = "laptop") -> None:
    """Trains the twelve runs, two at a time, and ships their curves."""
    configs = [config for configs in unconstrained(profile).values() for config in configs]
    curves = pd.concat(at_once(train, list(product(configs, SIDES)), "sb3-contrib"))
    curves = curves.assign(provenance=json.dumps(provenance()))
    write_atomically(data_folder() / "sb3.csv", curves.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
