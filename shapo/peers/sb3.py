"""TRPO of sb3-contrib on gymnasium's robots, for comparison with ours in `experiments.safety.unconstrained`.

python -m shapo.peers.sb3        trains what `figures/data/sb3.csv` is to hold: two tasks, three seeds, 1 M steps
"""

from __future__ import annotations

import json

import pandas as pd

from shapo.algorithms.config import Config
from shapo.experiments.safety import unconstrained
from shapo.peers.measuring import at_once
from shapo.runs.run import provenance
from shapo.runs.shipped import data_folder
from shapo.runs.store import write_atomically
from shapo.runs.train import one_thread


def train(config: Config) -> pd.DataFrame:
    """Trains sb3-contrib's TRPO at the settings of a config. Columns, a row per epoch: task, seed, steps, and
    episode_return, the mean over the episodes that ended in the epoch.

    Its KL is a mean over components, as OmniSafe's, with radius 0.01 and damping 0.1. Only observations are normalised.
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
            rows.append((config.task, config.seed, self.num_timesteps, mean))

    with one_thread():
        env = VecNormalize(make_vec_env(config.task, config.num_envs, seed=config.seed), norm_reward=False)
        TRPO(
            "MlpPolicy", env, n_steps=config.steps_per_epoch // config.num_envs, seed=config.seed, device="cpu",
            gamma=config.gamma, gae_lambda=config.gae_lambda, batch_size=config.minibatch_size,
            n_critic_updates=config.critic_passes, learning_rate=config.critic_lr,
        ).learn(config.total_steps, callback=Epochs())  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "seed", "steps", "episode_return"])


def main(profile: str = "laptop") -> None:
    """Trains the six runs, two at a time, and ships their curves."""
    configs = [config for configs in unconstrained(profile).values() for config in configs]
    curves = pd.concat(at_once(train, [(config,) for config in configs], "sb3-contrib"))
    curves = curves.assign(provenance=json.dumps(provenance()))
    write_atomically(data_folder() / "sb3.csv", curves.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
