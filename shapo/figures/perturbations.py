"""What perturbations cost and buy: of the actor over training, of a critic on one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shapo.figures.ablation import ACTORS, look
from shapo.figures.style import BLACK, BLUE, ORANGE, PAGE, canvas, one_legend, say, short_count, use_style


def kl_of_perturbations(
    progress: Mapping[str, Mapping[str, Sequence[pd.DataFrame]]], delta_down: Mapping[str, float]
) -> Figure:
    """Over training: how far each perturbed policy is from π₀, and what it loses there per distance.

    The loss is divided by sqrt(2 KL), to which it is proportional while both are small: the radius drops out, and what
    is left is how well the direction was chosen. Thick: mean over seeds; thin: each seed.

    Args:
        progress: task -> variant -> `Run.progress` of each seed. Variants without a perturbed actor are left out;
            those with a fixed "ρ =" are grey, each darker than the one before. delta_down: task -> δ_Down, nats.

    Raises:
        ValueError: where no run perturbed its actor.
    """
    perturbed = {
        task: {name: tables for name, tables in variants.items() if tables and "kl_down" in tables[0]}
        for task, variants in progress.items()
    }
    perturbed = {task: variants for task, variants in perturbed.items() if variants}
    if not perturbed:
        raise ValueError("progress must hold runs with a perturbed actor; got none")
    use_style()
    size = PAGE, 1.9 * len(perturbed) + 0.6
    fig, axes = plt.subplots(len(perturbed), 2, figsize=size, squeeze=False)
    for (task, variants), (kl, loss) in zip(perturbed.items(), axes, strict=True):
        swept = [name for name in variants if "ρ =" in name]
        for name, tables in variants.items():
            actor, critics = look(name)
            style = {"color": ACTORS[actor], "ls": "--" if critics == "SAM critics" else "-"}
            style["lw"] = 2.6 if actor == "Fisher" else 1.2  # so that both are seen where they coincide
            if name in swept:
                style |= {"color": str(0.8 - 0.6 * swept.index(name) / len(swept)), "zorder": 1.5}
            tables = [table.set_index("steps") for table in tables]
            _curves(kl, name, [table.kl_down for table in tables], style)
            _curves(loss, name, [-t.surrogate_down / np.sqrt(2 * t.kl_down) for t in tables], style)
        kl.axhline(delta_down[task], color=BLACK, lw=0.9, ls=":", label=r"$\delta_{\rm Down}$")
        kl.set_yscale("log")
        loss.set_ylim(bottom=min(0, loss.get_ylim()[0]))
        kl.set_title(f"{task}: distance", loc="left")
        loss.set_title("loss per distance", loc="left")
        kl.set_ylabel(r"KL$(\pi_0\,\|\,\pi_{\theta_0+\varepsilon})$ [nats]")
        loss.set_ylabel(r"$-L(\theta_0+\varepsilon)\,/\,\sqrt{2\,{\rm KL}}$")
    for axis in axes[-1]:
        axis.set_xlabel("environment steps")
    one_legend(fig, 5)
    return fig


def critic_symmetry(curves: Mapping[str, pd.DataFrame], rho: float) -> Figure:
    """Along SAM's perturbation of each critic: (a) the rise of its loss, (b) the mean change of its estimates.

    Args:
        curves: critic -> columns rise and change over the distance in parameters (index). rho: SAM's radius, to mark.
    """
    fig, (rise, change) = canvas(PAGE, 2.3, 2)
    for (name, table), colour, line in zip(curves.items(), (ORANGE, BLUE), ("-", "--"), strict=True):
        rise.plot(table.index, table.rise, line, color=colour, label=name)
        change.plot(table.index, table.change, line, color=colour)
    change.axhline(0, color=BLACK, lw=0.7)
    for axis in (rise, change):
        axis.axvline(rho, color=BLACK, lw=0.8, ls=":")
    say(rise, "loss", r"distance along $\nabla\ell/\|\nabla\ell\|$", r"rise of $\ell$ [cost$^2$]")
    say(change, "estimates", r"distance along $\nabla\ell/\|\nabla\ell\|$", r"mean change of $V_c$ [cost]")
    rise.legend()
    return fig


def _curves(axis: Axes, name: str, seeds: Sequence[pd.Series], style: dict) -> None:
    curves = pd.concat(seeds, axis=1)
    axis.plot(curves.index, curves, **style | {"lw": 0.4, "alpha": 0.4})
    marker = {"marker": "o", "ms": 2.5} if len(curves) < 12 else {}
    axis.plot(curves.index, curves.mean(axis=1), label=name, **marker, **style)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(short_count)
