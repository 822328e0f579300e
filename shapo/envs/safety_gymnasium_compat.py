"""safety-gymnasium 1.0.0 on Python 3.11 and 3.12: everything it takes, in one place.

Release 1.0.0 is the newest on PyPI and predates Python 3.11. It is installed without its pinned dependencies; this
module imports it and lets it build worlds. No other package stays patched. A newer release ends the need for this
module, and `import_safety_gymnasium` says so instead of guessing.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from threading import RLock
from types import ModuleType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np

from shapo.envs.physics import without_textures

SUPPORTED_VERSION = "1.0.0"
# Threads share the modules that are imported and patched here, and NumPy's global generator.
_ONE_AT_A_TIME = RLock()


@contextmanager
def _without_release_notices() -> Iterator[None]:
    """Keeps gymnasium-robotics from printing a notice about Adroit hands, which nothing here uses."""
    try:
        from farama_notifications import notifications
    except ImportError:
        yield
        return
    notice = notifications.pop("gymnasium_robotics", None)
    try:
        yield
    finally:
        if notice is not None:
            notifications["gymnasium_robotics"] = notice


with _without_release_notices():  # importing gymnasium imports its plugins, gymnasium-robotics among them
    import gymnasium  # noqa: F401


def import_safety_gymnasium() -> ModuleType:
    """Imports and returns the `safety_gymnasium` package, so that it works on this Python. Raises ImportError if it is
    not installed, or if its version is not the one that this module was written for.
    """
    try:
        version = metadata.version("safety-gymnasium")
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"safety-gymnasium is not installed; this task needs safety-gymnasium=={SUPPORTED_VERSION} "
            "(installed with --no-deps; `./run_all.sh setup` does it)"
        ) from None
    if version != SUPPORTED_VERSION:
        raise ImportError(
            f"safety-gymnasium {version} is installed, but {__name__} adapts {SUPPORTED_VERSION} only. "
            "A newer release should import on Python 3.11 and later by itself: if a plain "
            f"`import safety_gymnasium` works, replace {__name__} by it; otherwise install "
            f"safety-gymnasium=={SUPPORTED_VERSION}"
        )
    with _ONE_AT_A_TIME:  # a package that another thread is importing is in sys.modules already
        if "safety_gymnasium" not in sys.modules:
            with _array_defaults_in_dataclasses():
                importlib.import_module("safety_gymnasium")
            _let_arrays_of_one_be_numbers()
        return sys.modules["safety_gymnasium"]


def _let_arrays_of_one_be_numbers() -> None:
    """Lets safety_gymnasium build agents with joints, whose indices and angles it handles as arrays of one number.

    MuJoCo 3 and NumPy 2.4 no longer accept these as numbers. The patch stays, but only in its module of agents.
    """
    agents = importlib.import_module("safety_gymnasium.bases.base_agent")
    agents.float = lambda value: np.asarray(value).item()
    init_sensors = agents.BaseAgent._init_jnt_sensors

    class Indexed:
        def __init__(self, model: mujoco.MjModel) -> None:
            self.model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

        def jnt(self, index: Any) -> Any:
            return self.model.jnt(np.asarray(index).item())

    def init(agent: Any) -> None:
        model = agent.engine.model
        agent.engine.model = Indexed(model)
        init_sensors(agent)
        agent.engine.model = model

    agents.BaseAgent._init_jnt_sensors = init


@contextmanager
def _array_defaults_in_dataclasses() -> Iterator[None]:
    """Lets dataclass fields have ndarray defaults, which Python 3.11 rejects, by making them factories of copies."""
    original = dataclasses.dataclass

    def dataclass(cls=None, /, **options):
        def decorate(cls):
            for name in inspect.get_annotations(cls):
                default = cls.__dict__.get(name)
                if isinstance(default, np.ndarray):
                    setattr(cls, name, dataclasses.field(default_factory=default.copy))
            return original(cls, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def quick_worlds() -> Iterator[None]:
    """Makes safety_gymnasium build worlds without textures, and leave numpy's global generator alone, while inside.

    Every world that it compiles decodes a 191 MB skybox, which takes longer than the rest of the build; only the
    compilation is replaced. `Builder` also seeds itself from `np.random`, which would change the caller's numbers.
    One thread at a time is inside; others wait.
    """
    import_safety_gymnasium()
    world = importlib.import_module("safety_gymnasium.world")
    with _ONE_AT_A_TIME:
        own, random_state = world.mujoco, np.random.get_state()  # noqa: NPY002
        world.mujoco = SimpleNamespace(
            MjModel=SimpleNamespace(from_xml_string=lambda xml: without_textures(xml).compile()),
            MjData=mujoco.MjData,
            mj_forward=mujoco.mj_forward,
        )
        try:
            yield
        finally:
            world.mujoco = own
            np.random.set_state(random_state)  # noqa: NPY002
