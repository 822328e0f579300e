"""Baselines: frozen dataclasses of hyperparameters that `Config(algorithm=…)` takes by name or as an instance."""

from shapo.algorithms.lagrangian import PIDLag, TRPOLag
from shapo.algorithms.trust_region import TrustRegion

ALGORITHMS = {"TRPOLag": TRPOLag, "PIDLag": PIDLag}

__all__ = ["ALGORITHMS", "PIDLag", "TRPOLag", "TrustRegion"]
