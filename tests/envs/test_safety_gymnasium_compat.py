"""The compatibility module makes safety-gymnasium usable, leaves nothing behind, knows when it can go."""

import dataclasses
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace

import mujoco
import numpy as np
import pytest

from shapo.envs import safety_gymnasium_compat as compat

ROOT = Path(__file__).parents[2]


def test_a_plain_import_still_needs_it():
    """The day this fails, the module can go."""
    result = subprocess.run([sys.executable, "-c", "import safety_gymnasium"], capture_output=True, text=True)
    assert result.returncode != 0 and "mutable default" in result.stderr


def test_import_leaves_nothing_patched():
    code = (
        "import dataclasses; original = dataclasses.dataclass\n"
        "from farama_notifications import notifications; notices = dict(notifications)\n"
        "from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium\n"
        "package = import_safety_gymnasium()\n"
        "assert dataclasses.dataclass is original and notifications == notices\n"
        "assert package is import_safety_gymnasium()\n"
        "print(package.__version__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (result.stdout, result.stderr) == ("1.0.0\n", "")


def test_array_defaults_are_copies_per_instance():
    with compat._array_defaults_in_dataclasses():

        @dataclasses.dataclass
        class Colored:
            color: np.ndarray = np.zeros(2)  # noqa: RUF009
            size: float = 0.3

    first, second = Colored(), Colored(size=1.0)
    first.color[0] = 1
    assert second.color.tolist() == [0, 0] and (first.size, second.size) == (0.3, 1.0)
    with pytest.raises(ValueError, match="mutable default"):

        @dataclasses.dataclass
        class Plain:
            color: np.ndarray = np.zeros(2)  # noqa: RUF009


def test_patches_end_with_an_exception_too():
    original = dataclasses.dataclass
    world = compat.import_safety_gymnasium().world
    with pytest.raises(KeyError), compat._array_defaults_in_dataclasses(), compat.quick_worlds():
        assert dataclasses.dataclass is not original and world.mujoco is not mujoco
        raise KeyError
    assert dataclasses.dataclass is original and world.mujoco is mujoco


def test_building_worlds_leaves_the_global_generator_alone():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with compat.quick_worlds():
        compat.import_safety_gymnasium().make("SafetyPointGoal1-v0").reset(seed=0)
    assert np.random.random() == expected  # noqa: NPY002


def test_threads_wait_for_an_import_under_way(monkeypatch):
    compat.import_safety_gymnasium()
    package, begun = ModuleType("safety_gymnasium"), Event()

    def slowly(name):
        sys.modules[name] = package  # as Python does, before the package has anything
        begun.set()
        time.sleep(0.2)
        package.utils = "all of it"

    monkeypatch.delitem(sys.modules, "safety_gymnasium")
    monkeypatch.setattr(compat, "importlib", SimpleNamespace(import_module=slowly))
    monkeypatch.setattr(compat, "_let_arrays_of_one_be_numbers", lambda: None)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(compat.import_safety_gymnasium)
        assert begun.wait(10) and compat.import_safety_gymnasium().utils == "all of it"
        assert first.result() is package


def test_one_thread_at_a_time_builds_worlds():
    def building():
        with compat.quick_worlds():
            inside.set()

    inside, world = Event(), compat.import_safety_gymnasium().world
    with ThreadPoolExecutor() as pool:
        with compat.quick_worlds():
            with compat.quick_worlds():  # the same thread may, and stays inside afterwards
                other = pool.submit(building)
            assert not inside.wait(0.2) and world.mujoco is not mujoco
        other.result()
    assert inside.is_set() and world.mujoco is mujoco


def test_another_version_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.1")
    with pytest.raises(ImportError, match=r"safety-gymnasium 1\.2\.1 is installed.*plain .*replace"):
        compat.import_safety_gymnasium()


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ImportError, match=r"safety-gymnasium==1\.0\.0.*run_all\.sh setup"):
        compat.import_safety_gymnasium()
