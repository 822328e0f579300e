"""The figures: one style, one `save`, one function per figure. A figure takes arrays and trains nothing."""

# ruff: noqa: I001  # two imports of one file, rather than a name a line
from shapo.figures.ablation import ablation, dose_response
from shapo.figures.curves import PANELS, autocorrelations, effective_samples, kl_of_perturbations
from shapo.figures.curves import learning_curves, schedules, validation
from shapo.figures.pareto import frontier, pareto
from shapo.figures.pessimism import Dial, agreement, dilution, geometry, measured_weights
from shapo.figures.pessimism import quantile, reweighting, theorem1
from shapo.figures.robots import ascents, flat_and_robust, gradient_check, heatmaps, robustness, sharpness
from shapo.figures.scenes import robot_animation, robot_frames, trajectory, trajectory_animation
from shapo.figures.speed import benchmarks, training_time
from shapo.figures.style import LOOKS, ROOT, STYLE, home, save, use_style
from shapo.figures.tails import exceedance, moving_quantile, tails
from shapo.figures.update import conjugate_gradient_residuals, critic_sharpness, critic_symmetry
from shapo.figures.update import gradient_noise, line_search, moved_where_rare, pessimistic_step, tangent
