"""The figures: one style, one `save`, one function per figure. A figure takes arrays and trains nothing."""

from shapo.figures.ablation import ablation, sweep
from shapo.figures.curves import (
    PANELS,
    autocorrelations,
    dose_response,
    effective_samples,
    kl_of_perturbations,
    learning_curves,
    schedules,
    validation,
)
from shapo.figures.pareto import frontier, pareto
from shapo.figures.pessimism import (
    Dial,
    agreement,
    dilution,
    geometry,
    measured_weights,
    quantile,
    reweighting,
    theorem1,
)
from shapo.figures.proxy import gradient_noise, moved_where_rare
from shapo.figures.robots import gradient_check, robot_animation, robot_frames
from shapo.figures.robustness import ascents, flat_and_robust, heatmaps, robustness, sharpness
from shapo.figures.scenes import trajectory, trajectory_animation
from shapo.figures.speed import benchmarks, training_time
from shapo.figures.style import LOOKS, ROOT, STYLE, home, save, use_style
from shapo.figures.tails import exceedance, moving_quantile, tails
from shapo.figures.update import (
    conjugate_gradient_residuals,
    critic_sharpness,
    critic_symmetry,
    line_search,
    pessimistic_step,
    tangent,
)
