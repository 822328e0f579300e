"""The notebook runner and the options of run_all.sh, on small notebooks, as real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from notebooks import run as notebooks
from notebooks.page import mathml, to_html
from notebooks.run import ROOT

COMMAND = [sys.executable, "-m", "notebooks.run"]
GOOD = r"""
import os, sys
from tqdm import tqdm
for _ in tqdm(range(50), file=sys.stdout, mininterval=0):
    pass
print("got", profile, seed, rate, os.environ["OMP_NUM_THREADS"], os.getcwd())
"""
BAD = """
def deep():
    raise LookupError("the reason")
deep()
"""
DEAD = "import os\nos._exit(9)"
WIDGET = """
import ipywidgets
from IPython.display import HTML, display
from matplotlib import animation, pyplot
display(HTML(animation.FuncAnimation(pyplot.figure(), lambda frame: [], frames=2).to_jshtml()))
pyplot.close("all")
ipywidgets.interact(lambda x: None, x=(0, 9))
"""
SLOW = """
import os, pathlib, time
pathlib.Path("kernel.pid").write_text(str(os.getpid()))
time.sleep(120)
"""


def write(folder: Path, name: str, *sources: str, prose: str = "# A title") -> None:
    """A notebook with prose, a parameters cell and one code cell `step-N` for each source."""
    folder.mkdir(exist_ok=True)
    parameters = nbformat.v4.new_code_cell('profile = "smoke"\nseed = 0\nrate = 0.5', id="parameters")
    parameters.metadata["tags"] = ["parameters"]
    code = [nbformat.v4.new_code_cell(source, id=f"step-{i}") for i, source in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_markdown_cell(prose, id="prose"), parameters, *code]
    nbformat.write(notebook, folder / f"{name}.ipynb")


def places(folder: Path) -> list[str]:
    return ["--notebooks", str(folder / "notebooks"), "--output", str(folder / "results")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    """One run over notebooks of every kind; 09 is left out by --only."""
    folder = tmp_path_factory.mktemp("finished")
    source = folder / "notebooks"
    write(source, "00_good", GOOD, prose=r"With $\delta = \frac{1}{2}$ and `$code$`. [Next](01_bad.ipynb).")
    write(source, "01_bad", "before = 1", BAD, "print('never reached')")
    write(source, "02_dead", DEAD)
    write(source, "03_widget", WIDGET)
    write(source, "09_left_out", GOOD)
    options = [
        "--profile",
        "laptop",
        "--only",
        "00,01,2,03",
        "--jobs",
        "2",
        "-p",
        "seed",
        "7",
        "-p",
        "rate",
        "2",
    ]
    process = subprocess.run([*COMMAND, *places(folder), *options], cwd=ROOT, capture_output=True, text=True)
    return SimpleNamespace(process=process, results=folder / "results", source=source)


def test_a_failing_notebook_makes_the_exit_status_non_zero_and_is_explained(finished):
    text = finished.process.stdout
    assert finished.process.returncode == 1
    assert re.search(r"FAILED 01_bad in cell 'step-1': PapermillExecutionError", text)
    assert "LookupError: the reason" in text and "in deep()" in text
    assert not nbformat.read(finished.results / "01_bad.ipynb", 4).cells[-1].outputs
    assert "the reason" in (finished.results / "01_bad.html").read_text()


def test_a_kernel_that_dies_is_explained(finished):
    assert re.search(r"FAILED 02_dead in cell 'step-0': DeadKernelError", finished.process.stdout)


def test_the_others_still_run_and_the_summary_tells_all(finished):
    rows = re.findall(r"^(\w+) +(passed|FAILED) +\d+\.\d$", finished.process.stdout, flags=re.M)
    results = {"00_good": "passed", "01_bad": "FAILED", "02_dead": "FAILED", "03_widget": "passed"}
    assert rows == list(results.items())


def test_only_the_chosen_notebooks_leave_results_and_nothing_is_left_over(finished):
    stems = ["00_good", "01_bad", "02_dead", "03_widget"]
    expected = sorted([f"{stem}.{kind}" for stem in stems for kind in ("ipynb", "html")])
    assert sorted(path.name for path in finished.results.iterdir() if path.name != ".lock") == expected


def test_parameters_profile_thread_and_folder_reach_the_notebook(finished):
    executed = nbformat.read(finished.results / "00_good.ipynb", 4)
    (output,) = executed.cells[-1].outputs
    *bar, last = output.text.splitlines()
    assert last == f"got laptop 7 2.0 1 {finished.source}"
    assert len(bar) == 1, "a progress bar leaves one line"
    assert notebooks.SMOKE not in [cell.source for cell in executed.cells], "laptop"


def test_the_page_needs_no_network(finished):
    pages = [(finished.results / f"{name}.html").read_text() for name in ("00_good", "03_widget")]
    for page in pages:
        assert not re.search(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?https?:""", page)
        assert "widget-view" not in page
    assert 'href="01_bad.html"' in pages[0]
    assert "<mfrac>" in pages[0] and "$code$" in pages[0]
    assert "open the notebook in JupyterLab" in pages[1]
    assert all(re.search(r"math \{ font-family: .*?\bmath; \}", page, re.DOTALL) for page in pages)
    icons = set(re.findall(r'class="fa (fa-[\w-]+)', pages[1]))
    assert icons and all(f".{icon}::before" in page for page in pages for icon in icons)


def test_a_widget_with_a_static_picture_beside_it_shows_the_picture():
    data = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "text/html": "<b>still</b>",
        "text/plain": "x",
    }
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", data=data)])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    page = to_html(notebook, "title")
    assert "<b>still</b>" in page and "JupyterLab to use" not in page
    assert set(notebook.cells[0].outputs[0].data) == set(data), "the notebook itself keeps its widget"


def test_a_formula_with_an_unknown_command_stays_readable():
    assert mathml(r"\nosuchcommand{x} < 1") == r"$\nosuchcommand{x} &lt; 1$"
    assert mathml("a^b^c", "block") == "$$a^b^c$$"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "huge"], "'smoke', 'laptop', 'paper'"),
        (["--only", "00,77"], "no notebook 77; there are 00"),
        (["--jobs", "-1"], "not -1"),
        (["--jobs", "two"], "'two'"),
        (["--onyl", "00"], "--onyl"),
        (["-p", "sede", "1"], "00_good.ipynb declares no parameter sede; it has profile, seed, rate"),
        (["-p", "seed", "1.5"], "parameter seed is of type int, such as 0, and not '1.5'"),
        (["-p", "rate", "fast"], "parameter rate is of type float, such as 0.5, and not 'fast'"),
        (["-p", "profile", "paper"], "--profile"),
        (["-p", "seed"], "2 arguments"),
    ],
)
def test_a_mistake_on_the_command_line_starts_nothing(tmp_path, capsys, options, message):
    write(tmp_path / "notebooks", "00_good", GOOD)
    with pytest.raises(SystemExit) as exit_:
        notebooks.main([*places(tmp_path), *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_parameters_cell_that_computes_is_refused(tmp_path, capsys):
    write(tmp_path / "notebooks", "00_good", GOOD)
    path = tmp_path / "notebooks" / "00_good.ipynb"
    path.write_text(path.read_text().replace("rate = 0.5", "rate = 1 / seed"))
    with pytest.raises(SystemExit):
        notebooks.main(places(tmp_path))
    assert "00_good.ipynb: the parameters cell takes only lines `name = literal`" in capsys.readouterr().err


@pytest.fixture
def running(tmp_path):
    """A run in the middle of its only notebook, over the complete results of an earlier one."""
    write(tmp_path / "notebooks", "00_slow", SLOW)
    results = tmp_path / "results"
    results.mkdir()
    for kind in ("ipynb", "html"):
        (results / f"00_slow.{kind}").write_text("earlier")
    process = subprocess.Popen([*COMMAND, *places(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    marker = tmp_path / "notebooks" / "kernel.pid"
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    kernel = psutil.Process(int(marker.read_text()))
    yield SimpleNamespace(process=process, results=results, kernel=kernel, folder=tmp_path)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_the_earlier_results_whole_and_no_kernel(running, how):
    running.process.send_signal(how)
    running.process.wait()
    for kind in ("ipynb", "html"):
        assert (running.results / f"00_slow.{kind}").read_text() == "earlier"
    psutil.wait_procs([running.kernel], timeout=60)
    assert not running.kernel.is_running()
    if how != signal.SIGKILL:  # which leaves nobody to tidy up
        assert running.process.returncode == 130
        assert not list(running.results.glob(".*partial*"))


def test_a_second_run_into_the_same_folder_is_refused(running, capsys):
    assert notebooks.main(places(running.folder)) == 2
    assert "Another run" in capsys.readouterr().err


def test_what_passed_is_not_run_again_until_a_file_changes(tmp_path, capsys, monkeypatch):
    write(tmp_path / "notebooks", "00_good", GOOD)
    write(tmp_path / "notebooks", "02_dead", DEAD)
    monkeypatch.setattr(notebooks, "last_change", lambda: changed)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    changed, ran, seed = time.time(), [], ["-p", "seed", "1"]
    for options in (seed, [*seed, "--changed"], ["--changed"]):
        assert notebooks.main([*places(tmp_path), *options]) == 1, "02_dead never passes"
        ran.append(re.findall(r"^running (\d+)", capsys.readouterr().out, re.M))
    changed = time.time()
    assert notebooks.main([*places(tmp_path), "--only", "00", "--changed"]) == 0
    ran.append(re.findall(r"^running (\d+)", capsys.readouterr().out, re.M))
    assert ran == [["00", "02"], ["02"], ["00", "02"], ["00"]]
    executed = nbformat.read(tmp_path / "results" / "00_good.ipynb", 4)
    assert executed.cells[1].source == notebooks.SMOKE, (
        "smoke proves that it runs, and says so below the title"
    )
    assert "Nothing below is a result" in (tmp_path / "results" / "00_good.html").read_text()


def test_a_change_of_any_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    assert notebooks.last_change() == float("inf"), "outside of git nothing is known"
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("ignored")
    for name, moment in ((".gitignore", 10), ("new.py", 30), ("ignored", 50)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    assert notebooks.last_change() == 30


def copy_of_the_script(folder: Path) -> None:
    """What run_all.sh needs before set-up, and no .venv."""
    for name in ("run_all.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("notebooks/run.py", "shapo/experiments/profiles.py"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder / "notebooks", "00_good", GOOD)


@pytest.fixture
def fresh_clone(tmp_path):
    """A function that calls run_all.sh in a fresh clone, where it must refuse."""
    copy_of_the_script(tmp_path)

    def call(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHON": python}
        command = ["bash", "run_all.sh", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert not (tmp_path / ".venv").exists() and not (tmp_path / "runs").exists(), "something was started"
        return done

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--nosuch", "unrecognized arguments: --nosuch"),
        ("frobnicate", "unrecognized arguments: frobnicate"),
        ("--profile huge", "invalid choice: 'huge'"),
        ("--only 55", "no notebook 55"),
        ("-p sede 1", "no parameter sede"),
        ("test --profile paper", "test always uses the smoke profile"),
        ("test --only 55", "no notebook 55"),
        ("verify", "verify takes N"),
        ("verify 0", "N from 1, or all; not: 0"),
        ("verify two", "not: two"),
        ("verify 2 --seed", "not: 2 --seed"),
        ("verify 2 --nosuch 1", "not: 2 --nosuch 1"),
        ("setup --nosuch", "setup takes only --peers"),
        ("lab --nosuch", "unknown option for lab: --nosuch"),
    ],
)
def test_mistakes_are_told_before_set_up(fresh_clone, arguments, message):
    done = fresh_clone(*arguments.split())
    assert done.returncode == 2
    assert message in done.stderr


def test_help_needs_no_set_up(fresh_clone):
    done = fresh_clone("test", "--help")
    assert done.returncode == 0
    for word in ("test", "verify N", "setup", "lab", "--profile", "--only", "--jobs"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [["setup"], []])
def test_another_python_is_told_which_are_supported(fresh_clone, tmp_path, arguments):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\necho 3.9 /usr/bin/python3.9\n")
    old.chmod(0o755)
    done = fresh_clone(*arguments, python=str(old))
    assert done.returncode == 2
    assert "needs Python 3.11 or 3.12" in done.stderr and "is 3.9" in done.stderr


PRETENDER = """#!/usr/bin/env bash
# A Python that answers what run_all.sh asks before set-up, and only notes down what it is to do afterwards.
case "$*" in
    "-I -S -c"*) echo "3.11 {python}"; exit ;;
    -I*) exec "{real}" "$@" ;;
    "-m venv .venv") mkdir -p .venv/bin; cp "{python}" .venv/bin/python; cp "{python}" .venv/bin/ruff ;;
    "-m pytest"*) eval "$PYTEST_DOES" ;;
esac
echo "$*" >>calls
sleep 0.2
"""


@pytest.fixture
def pretending(tmp_path):
    """A function that starts run_all.sh over a set-up that is only pretended, as a user of this id."""
    clone, tools = tmp_path / "clone", tmp_path / "tools"
    clone.mkdir()
    tools.mkdir()
    copy_of_the_script(clone)

    def start(*arguments: str, uid: int = 1000, pytest: str = "true") -> subprocess.Popen:
        lines = {"python": PRETENDER.format(python=tools / "python", real=sys.executable)}
        lines["id"] = f"#!/bin/sh\necho {uid}\n"
        for name, text in lines.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PYTHON": str(tools / "python"), "PATH": path, "PYTEST_DOES": pytest}
        process = subprocess.Popen(
            ["bash", "run_all.sh", *arguments], cwd=clone, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        process.clone = clone
        return process

    return start


@pytest.mark.parametrize(("uid", "allowed"), [(0, True), (1000, False)])
def test_root_gets_jupyterlab_too_on_this_machine_alone(pretending, uid, allowed):
    process = pretending("lab", "--", "--no-browser", uid=uid)
    assert process.wait() == 0, process.stdout.read()
    call = (process.clone / "calls").read_text().splitlines()[-1]
    assert call.startswith("-m jupyterlab") and call.endswith("--no-browser")
    assert ("--allow-root" in call) == allowed
    assert "--ip=127.0.0.1" in call and "token" not in call


def test_jupyterlab_asks_no_newcomer_about_news(pretending):
    process = pretending("lab", "--", "--no-browser")
    assert process.wait() == 0, process.stdout.read()
    config = process.clone / ".venv" / "etc" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    (extension, given), *others = json.loads(config.read_text()).items()
    name = Path("share/jupyter/lab/schemas") / extension.replace(":", "/")
    known = json.loads((sys.prefix / name.with_suffix(".json")).read_text())["properties"]
    assert given["fetchNews"] == "false" in [choice["const"] for choice in known["fetchNews"]["oneOf"]]
    assert given.keys() <= known.keys() and not others


def test_two_first_calls_at_once_set_up_once(pretending):
    one, other = pretending("setup"), pretending("setup")
    said = "".join(process.communicate()[0] for process in (one, other))
    assert (one.returncode, other.returncode) == (0, 0), said
    assert said.count("Set-up is complete") == 1 and said.count("waiting for it") == 1
    assert (one.clone / "calls").read_text().count("-m venv .venv") == 1
    third = pretending("setup")
    assert third.communicate()[0] == "" and third.returncode == 0


def test_a_killed_set_up_lets_the_next_one_in(pretending):
    first = pretending("setup")
    while not (first.clone / "calls").exists():
        time.sleep(0.01)
    first.kill()
    second = pretending("setup")
    assert "Set-up is complete" in second.communicate()[0]


@pytest.mark.parametrize(
    ("pytest_does", "status"), [("true", 0), ("echo >left-over", 1), ("echo >>pyproject.toml", 1)]
)
def test_tests_that_leave_another_working_tree_fail(pretending, pytest_does, status):
    process = pretending("setup")
    process.wait()
    (process.clone / ".gitignore").write_text("calls\n.venv*\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], cwd=process.clone, check=True)
    (process.clone / "run_all.sh").write_text((process.clone / "run_all.sh").read_text() + "# mine\n")
    process = pretending("test", pytest=pytest_does)
    said = process.communicate()[0]
    assert process.returncode == status, said
    assert ("FAILED: working-tree" in said) == bool(status)


def test_the_command_line_is_read_before_anything_is_installed():
    """By a Python without site packages: what `run_all.sh` does before set-up."""
    command = [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "notebooks" / "run.py"),
        "--check",
        "--profile",
        "laptop",
    ]
    assert subprocess.run(command, capture_output=True, cwd=ROOT.parent).returncode == 0


def test_what_jupyterlab_saves_is_no_change_to_git_but_a_line_is(tmp_path):
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    command = re.search(r'git config filter.notebook.clean "(.*)"', (ROOT / "run_all.sh").read_text())[1]
    script = command.split()[1]
    git("init", "--quiet")
    git("config", "filter.notebook.clean", f"{sys.executable} '{ROOT / script}'")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "notebooks").mkdir()
    path = Path(shutil.copy(ROOT / "notebooks" / "13_claims.ipynb", tmp_path / "notebooks"))
    git("add", ".")
    assert git("show", ":notebooks/13_claims.ipynb") == path.read_text()
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["language_info"] |= {"version": "3.11.99", "file_extension": ".py"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[1].outputs, code[1].execution_count = [nbformat.v4.new_output("stream", text="seen")], 7
    code[1].metadata |= {"editable": True, "tags": []}
    nbformat.write(notebook, path)
    assert git("diff", "--name-only") == "" and "seen" in path.read_text()
    code[1].source += "\n# an ablation"
    nbformat.write(notebook, path)
    assert git("diff", "--name-only") == "notebooks/13_claims.ipynb\n"
