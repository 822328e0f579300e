"""The figures: one style, one `save`, one function per figure. A figure takes arrays and trains nothing."""

from shapo.figures.ablation import ablation, sweep
from shapo.figures.cost_tails import exceedance, moving_quantile, tails
from shapo.figures.dials import autocorrelations, dose_response, effective_samples, schedules
from shapo.figures.learning import PANELS, learning_curves, trajectory, trajectory_animation
from shapo.figures.perturbations import critic_symmetry, kl_of_perturbations
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
from shapo.figures.results import frontier, pareto
from shapo.figures.robots import gradient_check, robot_animation, robot_frames, tangent
from shapo.figures.robustness import (
    ascents,
    flat_and_robust,
    heatmaps,
    robustness,
    robustness_colours,
    sharpness,
    training_time,
)
from shapo.figures.speed import benchmarks
from shapo.figures.style import ROOT, STYLE, png, save, use_style
from shapo.figures.update import conjugate_gradient_residuals, critic_sharpness, line_search, pessimistic_step
from shapo.figures.validation import validation
