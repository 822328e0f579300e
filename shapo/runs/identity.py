"""What a run is: RunConfig, and the description and hash that name it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, ClassVar

from shapo.runs.code import code_hash


class RunConfig:
    """The base of the frozen dataclasses that define a run for `train`, `Run` and `Study`: `Config`, `RobotConfig`.

    They have task, algorithm, seed, num_envs, `epochs` and `steps_per_epoch`. `make_env(num_envs, seed)` makes
    environments, `trainer()` an object with run_epoch, state and restore, `policy(arrays)` a checkpoint's policy.
    """

    method: ClassVar[int]  # version in every run's name; raised whenever a change to the code changes numbers
    shown: ClassVar[dict[str, str]]  # label -> column of progress, on progress bars
    checkpoint_seconds: ClassVar[float] = 0.0  # least time between checkpoints; shorter epochs share one
    episode_columns: ClassVar[tuple[str, ...]]
    vocabulary: ClassVar[dict[str, Any]] = {}  # name -> class, for all classes that a description may name
    length: ClassVar[str | None] = None  # field with the run's length, if the epochs do not depend on it
    shipped_networks: ClassVar[tuple[str, ...]] = ()  # prefixes of the names of arrays that ship with results
    undifferentiated: ClassVar[dict[str, Any]] = {}  # arguments of `make_env` where no gradients are needed

    def bounded(self, action: Any, space: Any) -> Any:
        """Returns a policy's action as a gymnasium environment with the action space `space` takes it."""
        return action

    def cost_of(self, info: dict, terminated: bool, own: float | None = None) -> float:
        """Returns the cost of a step of a gymnasium environment. own: the cost that Safety-Gymnasium's step returns."""
        return float(info.get("cost", 0.0) if own is None else own)

    @property
    def resolved(self) -> RunConfig:
        """The config as it is run and as `identity` names it, with the task's own value in every field left None."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The method version and the whole resolved config, which together define a run.

        It stays what it was when first asked for, so a run keeps its name whatever training leaves on a class. A config
        that is built again, or that reached another process, is named by its classes as they are there and then.
        """
        return deepcopy(self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"method": self.method, "config": describe(self.resolved)}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_identity"}

    @property
    def run_id(self) -> str:
        """The hash of the identity, 12 hexadecimal digits."""
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def checked_config(field: str, value: object) -> RunConfig:
    """Returns `value` if it is a config; else raises a TypeError that names the field."""
    if isinstance(value, RunConfig):
        return value
    raise TypeError(f"{field} must be a shapo.Config or a shapo.RobotConfig; got {value!r}")


def describe(value: Any, path: str = "") -> Any:
    """Returns a config as JSON-able values. Raises TypeError, naming the field, for a value that cannot be described.

    A class goes by its name. A class from outside the package (a notebook cell, say), and a class or function that is a
    field's value, also go by `code_hash`, so editing them gives a new run. What the hash does not see (a file that a
    method reads, a list or dictionary of the module) belongs in fields; counters and other state that changes while
    running belong on the instance or in a dictionary of the module, as elsewhere they would give a config built later
    another name. Values that are equal are described alike, −0.0 as 0.0 and a whole number of a field for floats as a
    float. path: names of the fields that lead to the value.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not kind.__dataclass_params__.frozen:
            where = path or "a config"
            raise TypeError(
                f"{where}: {kind.__qualname__} must be a frozen dataclass: @dataclass(frozen=True)"
            )
        name = {"class": kind.__qualname__}
        if any(map(from_outside, kind.__mro__)):
            name = {"class": kind.__name__, "code": code_hash(kind)}  # its __qualname__ may vary
        within = path and f"{path}."
        values = {f.name: getattr(value, f.name) for f in fields(value)}
        for f in fields(value):
            if type(values[f.name]) is int and "float" in str(f.type):
                values[f.name] = float(values[f.name])
        return name | {field: describe(its, within + field) for field, its in values.items()}
    if isinstance(value, type | FunctionType):
        kind = "class" if isinstance(value, type) else "function"
        return {kind: value.__name__, "code": code_hash(value)}
    if isinstance(value, list | tuple):
        return [describe(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0
    raise TypeError(
        f"{path or 'a config'} must be a plain, finite value, a function or class written in Python, or a frozen "
        f"dataclass, list or tuple of these; got {value!r}"
    )


def config_from(description: dict[str, Any]) -> RunConfig:
    """Returns the resolved config that `describe` described, with the same run_id.

    Raises ValueError for a class from outside the package (a notebook cell, say), of which a description has only name
    and hash, and for anything that does not describe a config of this version of the package.
    """
    configs = [kind for kind in RunConfig.__subclasses__() if not from_outside(kind)]
    words = {name: kind for config in configs for name, kind in config.vocabulary.items()}
    words |= {config.__qualname__: config for config in configs}
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


def from_outside(kind: type) -> bool:
    """Whether a class is neither of this package nor of Python."""
    root = kind.__module__.partition(".")[0]
    return root != "shapo" and root not in sys.stdlib_module_names
