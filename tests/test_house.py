"""What the repository promises about itself: pins that agree, clean notebooks, nothing of one machine."""

import ast
import importlib.metadata
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

import shapo
from notebooks.run import ROOT, declared_parameters
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor
from shapo.experiments import safety
from shapo.experiments.profiles import dials

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@cache
def tracked() -> list[Path]:
    """Every file git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def requirements(name: str) -> dict[str, str]:
    """name -> version of a file in requirements/, every line of which must be an exact pin."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def pins(lines: list[str]) -> dict[str, str]:
    found = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    return {canonical(name): version for name, version in found.items()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_conda_users_get_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, via_pip = environment["dependencies"]
    assert (python, pip) == (f"python {PROJECT['requires-python']}", "pip")
    constraint, *lines = via_pip["pip"]
    assert constraint == "--constraint requirements/constraints.txt"
    assert pins(lines) == pins(PINNED)
    second_line = "pip install --no-deps -r requirements/no-deps.txt -e ."
    assert second_line in (ROOT / "environment.yml").read_text()
    assert second_line in (ROOT / "README.md").read_text()


def test_constraints_hold_every_direct_pin_and_nothing_installed_without_dependencies():
    constraints = requirements("constraints.txt")
    assert pins(PINNED).items() <= constraints.items()
    assert not constraints.keys() & (requirements("no-deps.txt").keys() | requirements("peers.txt").keys())


def test_the_lock_has_digests_of_every_constraint_but_pytorch():
    """Markers choose among Pythons and systems, where constraints name what Linux has."""
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    entries = re.findall(
        r"^([\w.-]+)==([\w.]+)(?: ;.*)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.M
    )
    locked = {canonical(name): version for name, version, _ in entries}
    assert len(entries) == len(locked) == len(re.findall("^[a-z]", lock, re.M))
    constraints = requirements("constraints.txt")
    assert constraints.pop("torch") and "torch" not in locked
    elsewhere = {"appnope", "colorama", "pywinpty"}  # macOS and Windows
    wanted = constraints | requirements("no-deps.txt")
    assert {name: version for name, version in locked.items() if name not in elsewhere} == wanted


def test_what_is_installed_is_what_is_pinned():
    wanted = pins(PINNED) | requirements("no-deps.txt")
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in wanted}
    assert installed == wanted


def test_the_script_supports_the_pythons_that_the_package_supports():
    script = (ROOT / "run_all.sh").read_text()
    minors = [int(python.split(".")[1]) for python in re.search(r'supported="(.*)"', script)[1].split()]
    assert PROJECT["requires-python"] == f">=3.{min(minors)},<3.{max(minors) + 1}"
    assert minors == list(range(min(minors), max(minors) + 1))


def test_every_import_is_declared():
    declared = pins(PINNED).keys() | requirements("no-deps.txt").keys() | requirements("peers.txt").keys()
    known = importlib.metadata.packages_distributions()
    ours = {"shapo", "notebooks", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    sources = {path: path.read_text() for path in tracked() if path.suffix == ".py"}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        lines = "\n".join(cell.source for cell in cells if cell.cell_type == "code").splitlines()
        sources[path] = "\n".join(line for line in lines if not line.lstrip().startswith("%"))
    undeclared = set()
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for module in {name.partition(".")[0] for name in names} - ours - sys.stdlib_module_names:
                if not {canonical(package) for package in known.get(module, [module])} & declared:
                    undeclared.add(f"{module} in {path.relative_to(ROOT)}")
    assert not undeclared


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == shapo.__version__
    assert citation["license"] == PROJECT["license"]


def test_continuous_integration_runs_the_two_commands_of_the_readme_in_order():
    for path in (ROOT / ".ci" / "run", ROOT / "README.md"):
        assert re.search(r"^ *\./run_all\.sh (?!test).*^ *\./run_all\.sh test", path.read_text(), re.M | re.S)


def test_the_package_is_found_beside_a_clone_of_its_name(tmp_path):
    clone, installed = tmp_path / "shapo", tmp_path / "installed"
    shutil.copytree(ROOT / "shapo", clone / "shapo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    pip += ["--ignore-installed"]  # or pip takes away what is installed here
    subprocess.run([*pip, f"--prefix={installed}", "--editable", clone], check=True, capture_output=True)
    code = (
        "import importlib.util, site, sys; site.addsitedir(sys.argv[1]);"
        "print(importlib.util.find_spec('shapo').origin)"
    )
    (packages,) = installed.rglob("site-packages")
    command = [sys.executable, "-S", "-c", code, packages]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(clone / "shapo" / "__init__.py")


def test_nothing_names_one_machine():
    personal = re.compile(rf"(?<![\w.])/(?:root|home|Users)/|{re.escape(str(ROOT))}\b")
    scripts = ["run_all.sh", ".ci/run", "environment.yml", "pyproject.toml", "Dockerfile"]
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        assert not personal.search(text), f"{path.relative_to(ROOT)} holds a path of one machine"
        if path.parent.name == "requirements" or str(path.relative_to(ROOT)) in scripts:
            assert "://" not in text, (
                f"{path.relative_to(ROOT)} names a host; where packages come from is pip's setting"
            )


def test_the_radii_in_the_readme_are_those_of_its_task():
    readme = (ROOT / "README.md").read_text()
    radii = dials("PointGoal1-v0")
    for said, there in (
        ("FisherSAM(delta_down=", safety.delta_down("PointGoal1-v0")),
        ("EuclideanSAM(rho=", radii.rho_critic),
    ):
        assert re.findall(rf"shapo\.{re.escape(said)}([\d.e-]+)\)", readme) == [f"{there:g}"]
    assert f"FisherSAM({safety.delta_down('PointGoal1-v0'):g})" in shapo.__doc__


def test_the_perturbation_in_the_readme_works():
    readme = (ROOT / "README.md").read_text()
    code = readme[readme.index("    @dataclass") : readme.index("**A baseline of your own**")]
    names = {"dataclass": dataclass, "shapo": shapo}
    exec(textwrap.dedent(code), names)
    actor = GaussianActor(3, 2, hidden_sizes=(4,))
    gradient = torch.ones_like(actor.theta)
    fisher = GaussianFisher(actor, torch.ones(5, 3, dtype=actor.theta.dtype), 0.1, iterations=100)
    epsilon = names["config"].actor(gradient, fisher, samples=5)
    torch.testing.assert_close(fisher(epsilon), -0.01 * gradient, rtol=1e-3, atol=1e-5)


def test_functions_fit_on_a_screen():
    for path in (ROOT / "shapo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length < 70, f"{path.name}: {node.name} has {length} lines"


def test_the_readme_lists_the_notebooks_there_are():
    listed = set(re.findall(r"\(notebooks/(\w+\.ipynb)\)", (ROOT / "README.md").read_text()))
    assert listed == {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_as_a_source(path: Path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown", "prose first"
    assert code[0].metadata.get("tags") == ["parameters"]
    name, default = next(iter(declared_parameters(path).items()))
    assert name == "profile" and default in shapo.PROFILES
    for cell in notebook.cells:
        assert not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", cell.id), f"cell {cell.id} has no readable name"
    for cell in code:
        assert not cell.outputs and cell.execution_count is None, (
            f"cell {cell.id} has been committed with its output"
        )
        assert len(cell.source.splitlines()) <= 30, f"cell {cell.id} is longer than 30 lines"


def test_every_notebook_leads_to_the_next():
    for path, after in itertools.pairwise(NOTEBOOKS):
        prose = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        assert f"]({after.name})" in "\n".join(prose), f"{path.name} has no link to {after.name}"


def test_progress_bars_are_no_errors():
    """On stderr, where tqdm writes by default, JupyterLab shows them red."""
    for path in [*NOTEBOOKS, *(ROOT / "shapo").rglob("*.py")]:
        source = path.read_text()
        if path.suffix == ".ipynb":
            source = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
            source = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                assert "file" in {keyword.arg for keyword in node.keywords}, f"{path.name}: {node.lineno}"


BELOW = {  # room -> what it may import, of shapo
    "checks": set(),
    "sharpness": {"checks"},
    "envs": {"checks"},
    "runs": {"checks"},
    "algorithms": {"runs", "sharpness", "envs", "checks"},
    "robots": {"algorithms", "runs", "sharpness", "envs", "checks"},
    "experiments": {"robots", "algorithms", "runs", "sharpness", "envs", "checks"},
    "peers": {"experiments", "robots", "algorithms", "runs", "sharpness", "envs", "checks"},
    "figures": {"experiments", "robots", "algorithms", "runs", "sharpness", "envs", "checks"},
}


@cache
def imports(deferred: bool) -> dict[str, set[str]]:
    """Module of the package -> those it names in its imports; deferred: also those inside functions."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "shapo").rglob("*.py")
    }
    found = {}
    for module, path in files.items():
        found[module] = set()
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree) if deferred else tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports are absolute"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in names if name.partition(".")[0] == "shapo"]
            found[module] |= {name if name in files else name.rpartition(".")[0] for name in ours}
    return found


def test_rooms_import_downwards_only():
    for module, named in imports(deferred=True).items():
        if module in ("shapo", "shapo.__main__"):
            continue
        room = module.split(".")[1]
        assert room in BELOW, f"{module} lies outside every room"
        above = {name.split(".")[1] for name in named} - BELOW[room] - {room}
        assert not above, f"{module} imports {above}"


def test_imports_go_round_in_no_circle():
    TopologicalSorter(imports(deferred=False)).prepare()  # raises CycleError


def test_nothing_lies_flat_but_the_method_and_the_checks():
    flat = {path.name for path in (ROOT / "shapo").glob("*.py")}
    assert flat == {"__init__.py", "__main__.py", "checks.py", "sharpness.py"}


def test_a_name_that_several_rooms_have_says_the_same_in_each():
    shared = {"config", "networks", "trainer", "robots", "robustness"}  # each room's own
    names = Counter(path.stem for path in (ROOT / "shapo").rglob("*.py") if not path.stem.startswith("__"))
    assert {name for name, times in names.items() if times > 1} <= shared
