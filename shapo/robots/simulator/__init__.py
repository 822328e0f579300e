"""The differentiable simulator: the robots' laws of motion as formulas, compiled, and their gradients.

`ROBOTS` costs nothing to import. What computes, `simulator.Simulator` and `gradient_check`, imports Newton: seconds.
"""

from shapo.robots.simulator.catalogue import CONTROL_DT, ROBOTS, Robot
