"""What a run is: RunConfig, and the description and hash that name it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any, ClassVar

from shapo.runs.code import code_hash


class RunConfig:
    """What `train`, `Run` and `Study` ask of a frozen dataclass that defines a run: `Config`, `RobotConfig`.

    Fields task, algorithm, seed and num_envs; `epochs`, `steps_per_epoch`; `make_env(num_envs, seed)`; `trainer()`, of
    something with run_epoch, state, restore; `policy(arrays)` of a checkpoint.
    """

    method: ClassVar[int]  # part of every run's name; raised whenever a change to the code changes numbers
    shown: ClassVar[dict[str, str]]  # label -> column of progress, on progress bars
    checkpoint_seconds: ClassVar[float] = 0.0  # epochs that are shorter share a checkpoint
    episode_columns: ClassVar[tuple[str, ...]]
    vocabulary: ClassVar[dict[str, Any]]  # name -> class of everything that a description of it may hold
    length: ClassVar[str | None] = None  # the field that says how long, where an epoch does not depend on it
    shipped_networks: ClassVar[tuple[str, ...]] = ()  # how names begin of arrays that ship with results
    undifferentiated: ClassVar[dict[str, Any]] = {}  # what `make_env` is told where nothing is differentiated

    def bounded(self, action: Any, space: Any) -> Any:
        """A policy's action as an environment of gymnasium takes it."""
        return action

    def cost_of(self, info: dict, terminated: bool) -> float:
        """Of a step of an environment of gymnasium."""
        return float(info.get("cost", 0.0))

    @property
    def resolved(self) -> RunConfig:
        """The config as it is run, with the task's own value in every field left None: what `identity` names."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The method version and the whole config: what a run is."""
        return {"method": self.method, "config": describe(self.resolved)}

    @property
    def run_id(self) -> str:
        """Hash of the identity."""
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def describe(value: Any) -> Any:
    """A config as JSON-able values. Classes go by name; one from outside the package (a notebook cell, say) also by
    `code_hash`, so that editing it names a new run; functions and classes as values likewise. What that does not see
    (a file that a method reads, a dictionary of the module) belongs in fields. Raises TypeError for what has no such
    description.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not kind.__dataclass_params__.frozen:
            raise TypeError(f"{kind.__qualname__} must be a frozen dataclass: @dataclass(frozen=True)")
        name = {"class": kind.__qualname__}
        if any(map(_from_outside, kind.__mro__)):
            name = {"class": kind.__name__, "code": code_hash(kind)}  # where it was defined does not travel
        return name | {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, type | FunctionType):
        kind = "class" if isinstance(value, type) else "function"
        return {kind: value.__name__, "code": code_hash(value)}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError(
        f"a config holds plain, finite values, functions and frozen dataclasses of them; got {value!r}"
    )


def config_from(description: dict[str, Any]) -> RunConfig:
    """The resolved config that `describe` described, of the same run_id.

    Raises ValueError for a class from outside the package (a notebook cell, say), of which a description has only the
    name, and for what does not describe a config of this version of the package.
    """
    words = {name: kind for config in RunConfig.__subclasses__() for name, kind in config.vocabulary.items()}
    words |= {kind.__qualname__: kind for kind in RunConfig.__subclasses__() if not _from_outside(kind)}
    config = _rebuilt(description, words)
    if not isinstance(config, RunConfig) or config.identity["config"] != description:
        raise ValueError(f"not a description of a Config of this version of the package: {description!r}")
    return config


def _rebuilt(value: Any, words: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return tuple(_rebuilt(item, words) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("class", value.get("function"))
    settings = {field: _rebuilt(v, words) for field, v in value.items() if field not in ("class", "code")}
    kind = words.get(name)
    if not is_dataclass(kind) or "code" in value:
        raise ValueError(f"{name} is not the package's own, so it cannot be rebuilt from its description")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"not a description of this version's {name}: {error}") from error


def _from_outside(kind: type) -> bool:
    root = kind.__module__.partition(".")[0]
    return root != "shapo" and root not in sys.stdlib_module_names
