"""SHAPO, sharpness-aware policy optimization for safe exploration: the open companion of the paper.

    import shapo
    run = shapo.train(shapo.Config(task="PointGoal1-v0", algorithm="PIDLag", actor=shapo.FisherSAM(0.001)))

The method is in `shapo.sharpness`; read that file first.
"""

from shapo.envs import OwnTask, make_env  # isort: skip  # first: it imports gymnasium quietly
from shapo.algorithms import CPO, CRPO, PIDLag, SauteRL, TRPOLag
from shapo.algorithms.config import Config
from shapo.experiments.profiles import PROFILES
from shapo.robots import PPO, SHAC, RobotConfig
from shapo.runs.run import Run
from shapo.runs.study import Study
from shapo.runs.train import train
from shapo.sharpness import (
    AdaptiveSAM,
    EuclideanSAM,
    FisherSAM,
    FixedAlpha,
    FixedDelta,
    Perturbation,
    alpha_from_delta,
    delta_from_alpha,
    trust_region_step,
)

__version__ = "0.1.0"
__all__ = [
    "CPO",
    "CRPO",
    "PPO",
    "PROFILES",
    "SHAC",
    "AdaptiveSAM",
    "Config",
    "EuclideanSAM",
    "FisherSAM",
    "FixedAlpha",
    "FixedDelta",
    "OwnTask",
    "PIDLag",
    "Perturbation",
    "RobotConfig",
    "Run",
    "SauteRL",
    "Study",
    "TRPOLag",
    "alpha_from_delta",
    "delta_from_alpha",
    "make_env",
    "train",
    "trust_region_step",
    "watch",
]


def __getattr__(name: str):
    if name == "watch":  # matplotlib takes a second to import, and training does not need it
        from shapo.figures.watch import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
