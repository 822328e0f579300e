"""No test sees the user's runs or packs, or leaves anything in the working tree."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "figures" / "data"


def git(*command):
    """Lines that git says of the working tree; None outside of one."""
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode else done.stdout.splitlines()


def pytest_configure(config):
    """Results as they are committed, in a copy that tests may write to; processes that tests start inherit both."""
    folder = Path(tempfile.mkdtemp(prefix="shapo-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    tracked = git("ls-files", "--", str(DATA))
    for path in DATA.rglob("*") if tracked is None else map(ROOT.joinpath, tracked):
        if path.is_file():
            copy = folder / "data" / path.relative_to(DATA)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    os.environ |= {"SHAPO_RUNS": str(folder / "runs"), "SHAPO_DATA": str(folder / "data")}


def pytest_sessionstart(session):
    session.tree = git("status", "--porcelain", "--untracked-files=all")


def pytest_sessionfinish(session, exitstatus):
    """Once, when all processes of a parallel session are done."""
    if hasattr(session.config, "workerinput"):
        return
    after = git("status", "--porcelain", "--untracked-files=all")
    if after != session.tree:
        changed = sorted(set(after or ()) ^ set(session.tree or ()))
        print("\nThe tests changed the working tree:", *changed, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """A run store of each test's own, where it names none."""
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path / "runs"))
