"""The gallery lists the figures there are, each with a notebook that draws it."""

import json
import re

from shapo.figures import ROOT

ROW = re.compile(
    r"^\| \[([\w-]+)\]\(([\w-]+)\.png\) \| .{10,} \| \[(\d\d)\]\(\.\./notebooks/(\3_\w+\.ipynb)\) \|$", re.M
)
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
