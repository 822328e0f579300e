"""Baselines: frozen dataclasses of hyperparameters that `Config(algorithm=…)` takes by name or as an instance."""

from shapo.algorithms.cpo import CPO
from shapo.algorithms.crpo import CRPO
from shapo.algorithms.lagrangian import PIDLag, TRPOLag
from shapo.algorithms.saute import SauteRL
from shapo.algorithms.trust_region import TrustRegion

ALGORITHMS = {
    "TRPOLag": TRPOLag, "PIDLag": PIDLag, "CPO": CPO, "CRPO": CRPO, "SauteRL": SauteRL,
}  # fmt: skip

__all__ = ["ALGORITHMS", "CPO", "CRPO", "PIDLag", "SauteRL", "TRPOLag", "TrustRegion"]
