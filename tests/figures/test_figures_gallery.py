"""The gallery lists the figures there are, each with a notebook that draws it."""

import json
import re
from pathlib import Path

import imageio.v3 as iio
import pytest

from shapo.figures.style import ROOT, canvas, home, label, save

ROW = re.compile(
    r"^\| \[([\w-]+)\]\(([\w-]+)\.png\) \| .{10,} \| \[(\d\d)\]\(\.\./notebooks/(\3_\w+\.ipynb)\) \|$", re.M
)
# Panels that smoke draws and a shipped figure does not, because there all runs are alike: λ is κ from first to last.
ALIKE = {"extend_baseline": {r"multiplier $\lambda$ | environment steps"}}
ROWS = ROW.findall((ROOT / "figures" / "README.md").read_text())


def test_the_gallery_lists_exactly_the_figures_there_are():
    for kind in ("png", "pdf"):
        there = sorted(path.stem for path in (ROOT / "figures").glob(f"*.{kind}"))
        assert sorted(name for _, name, *_ in ROWS) == there
    assert all(label == name for label, name, *_ in ROWS)


def test_every_figure_is_drawn_by_its_notebook():
    for _, figure, _, notebook in ROWS:
        cells = json.loads((ROOT / "notebooks" / notebook).read_text())["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        names = re.findall(r'"([\w{}.()]+)"', code)
        patterns = [r"[\w-]+".join(map(re.escape, re.split(r"\{.*?\}", name))) for name in names]
        assert any(re.fullmatch(p, figure) for p in patterns if p != r"[\w-]+"), f"{figure} in {notebook}"


def shown(path: Path) -> tuple[set[str], set[str]]:
    """The panels of a picture and the names in their legends, with # for numbers, which depend on the profile."""
    lines = re.sub(r"[−-]?\d[\d.,]*", "#", iio.immeta(path)["Description"]).splitlines()
    panels = [re.sub(r"^\(\w\) ", "", line).partition(" — ") for line in lines]
    names = {name for *_, names in panels if names for name in names.split(", ")}
    return {panel for panel, *_ in panels}, names


def test_a_picture_says_what_it_shows(tmp_path):
    fig, (left, right) = canvas(4, 2, 2)
    left.plot([0, 1], label="vanilla")
    left.plot([1, 0], label="SHAPO")
    label(left, "return", "steps", "mean")
    label(right, "cost")
    save(fig, "two", folder=tmp_path)
    assert iio.immeta(tmp_path / "two.png")["Description"] == (
        "(a) return | steps | mean — vanilla, SHAPO\n(b) cost"
    )
    assert shown(tmp_path / "two.png") == ({"return | steps | mean", "cost"}, {"vanilla", "SHAPO"})


@pytest.mark.parametrize("name", [name for _, name, *_ in ROWS])
def test_a_shipped_figure_shows_the_series_that_its_notebook_draws(name):
    """The notebooks, run under smoke, draw the same figures of less: panels may lack, where all runs are alike."""
    drawn = home("smoke") / f"{name}.png"
    if not drawn.exists():
        pytest.skip("its notebook has not been run here")
    (panels, names), (drawn_panels, drawn_names) = shown(ROOT / "figures" / f"{name}.png"), shown(drawn)
    assert drawn_panels - ALIKE.get(name, set()) <= panels and drawn_names == names
