"""A run is named by what it is: by no file, no folder and no default that moves."""

import pytest

from shapo import (
    CPO,
    PPO,
    SHAC,
    AdaptiveSAM,
    Config,
    EuclideanSAM,
    FisherSAM,
    FixedAlpha,
    PIDLag,
    RobotConfig,
)
from shapo.sharpness import EffectiveAlpha, KLMatchedSAM, OptimisticSAM, RandomSAM

NAMES = [
    (Config(), "f538eaf8b382"),
    (
        Config("PointGoal1-v0", "TRPOLag", actor=FisherSAM(0.002), seed=100, total_steps=1_000_000),
        "6da28632ecdf",
    ),
    (Config("PointButton1-v0", "SauteRL"), "2052bae7952d"),
    (Config("Ant-v4", "CPO", actor=FisherSAM(0.008), critic=EuclideanSAM(0.01)), "6f4dc046da8a"),
    (Config("Walker2d-v4", "CRPO", seed=3), "5758bb05fe93"),
    (
        Config(
            "Walker2d-v4", PIDLag(lagrangian_multiplier_init=5.0, target_kl=0.03), actor=KLMatchedSAM(0.006)
        ),
        "6dc6021568a9",
    ),
    (Config(algorithm="TRPOLag", actor=RandomSAM(0.002), cost_limit=25.0), "62789ecd9b3c"),
    (Config(algorithm="TRPOLag", actor=OptimisticSAM(FixedAlpha(0.05, 1000))), "07a65636e008"),
    (
        Config(
            algorithm=CPO(cost_per_step=False), actor=FisherSAM(EffectiveAlpha(0.1)), hidden_sizes=(32, 16)
        ),
        "b78f2c062233",
    ),
    (RobotConfig("DiffAnt"), "cc965454e1fb"),
    (RobotConfig("DiffAnt", actor=AdaptiveSAM(0.75), ascent_envs=8, seed=2), "8352406d2d12"),
    (RobotConfig("DiffAnt", SHAC(horizon=8, critic_lr=1e-3), actor=AdaptiveSAM(1.5), iterations=3), "9c321be38bbe"),
    (RobotConfig("DiffAnt", PPO(minibatches=8), num_envs=32), "6fb3d33bd926"),
    (RobotConfig("DiffHumanoid", actor=AdaptiveSAM(0.75), along_perturbed=True), "33000e1d4861"),
    (RobotConfig("DiffHumanoid", algorithm=PPO(), iterations=1250), "0f7bcd14a2c0"),
]  # fmt: skip


@pytest.mark.parametrize("config, name", NAMES, ids=[name for _, name in NAMES])
def test_shipped_and_running_runs_keep_their_names(config, name):
    assert config.run_id == name
