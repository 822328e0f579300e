"""The sister paper: SHAC, SHAC-ASAM and PPO on robots in a differentiable simulator.

    run = shapo.train(RobotConfig("DiffAnt", actor=AdaptiveSAM(rho=0.75)))

The simulator is imported only when it is needed, because importing Newton takes seconds.
"""

from shapo.robots.config import PPO, SHAC, RobotConfig

__all__ = ["PPO", "SHAC", "RobotConfig"]
