"""The figures: one style, one `save`, one function per figure. A figure takes arrays and trains nothing."""

from shapo.figures.dials import autocorrelations, dose_response, effective_samples, schedules
from shapo.figures.learning import PANELS, learning_curves, trajectory, trajectory_animation
from shapo.figures.pessimism import (
    agreement,
    dial,
    dilution,
    geometry,
    measured_weights,
    quantile,
    reweighting,
    theorem1,
)
from shapo.figures.speed import benchmarks
from shapo.figures.style import ROOT, STYLE, png, save, use_style
from shapo.figures.update import conjugate_gradient_residuals, critic_sharpness, line_search, pessimistic_step

__all__ = [
    "PANELS",
    "ROOT",
    "STYLE",
    "agreement",
    "autocorrelations",
    "benchmarks",
    "conjugate_gradient_residuals",
    "critic_sharpness",
    "dial",
    "dilution",
    "dose_response",
    "effective_samples",
    "geometry",
    "learning_curves",
    "line_search",
    "measured_weights",
    "pessimistic_step",
    "png",
    "quantile",
    "reweighting",
    "save",
    "schedules",
    "theorem1",
    "trajectory",
    "trajectory_animation",
    "use_style",
]
