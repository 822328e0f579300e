"""Speed and memory against the peers: safety_gymnasium, EnvPool, OmniSafe, bare MuJoCo, and plain autograd.

A *probe* measures one thing once, in a process of its own, so that its memory, threads and cores are its own. A
*benchmark* measures its sides in turn, repeat by repeat, and returns a tidy table:

| column    | description                                                            |
|-----------|------------------------------------------------------------------------|
| benchmark | name of the benchmark function                                         |
| task      | the task it was measured on                                            |
| quantity  | name of the measured quantity: "steps", "rollout", ...                 |
| side      | what was measured against others: "shapo", "OmniSafe", ...             |
| repeat    | 0, 1, ...; values of one repeat were measured right after each other   |
| value     | NaN where a side was skipped                                           |
| unit      | unit of the value                                                      |
| note      | the setting, or why a side was skipped and how to install it           |

`compare` turns measurements into ratios with their spread and the target each has to reach.
"""

from shapo.peers.comparing import COMPARISONS, compare, epoch_parts, read, store, summary
from shapo.peers.differentiating import gradients, robots
from shapo.peers.learning import VARIANTS, best_omnisafe_setting, epochs, study, training
from shapo.peers.measuring import COLUMNS, INSTALL_PEERS, ProbeError, alternate, run_apart
from shapo.peers.stepping import environments, locomotion, memory, physics
from shapo.peers.updating import pieces
