"""The other end of `run_apart`."""

import sys

from shapo.peers.measuring import answer

answer(*sys.argv[1:])
