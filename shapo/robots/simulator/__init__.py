"""The differentiable simulator: the robots' laws of motion as compiled formulas, and their gradients.

`ROBOTS` costs nothing to import. The modules `simulator` and `gradient_check` import Newton, which takes seconds.
"""

from shapo.robots.simulator.catalogue import CONTROL_DT, ROBOTS, Robot
