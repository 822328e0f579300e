"""Checks of the fields of frozen dataclasses and of what a perturbation returns, and the error for non-finite numbers.

A field of a `Checked` dataclass states what it accepts, `rho: float = setting(AT_LEAST_0)`, and holds a plain number.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A reward, cost, observation, gradient or parameter became NaN or infinite."""


Dataclass = TypeVar("Dataclass")
Rule = Callable[[str, object], object]  # (field, value) -> the plain value; raises ValueError or TypeError


def real(accepted: str, holds: Callable[[float], bool]) -> Rule:
    """Returns a rule for finite Python or NumPy numbers that `holds` accepts; `accepted` names them in its error."""

    def rule(field: str, value: object) -> float:
        number = math.nan
        if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
            with suppress(OverflowError):  # no float is as large as some whole numbers
                number = float(value)
        if not math.isfinite(number) or not holds(number):
            raise ValueError(f"{field} must be {accepted}; got {value!r}")
        return number + 0.0  # −0.0 and 0.0 are one setting

    return rule


def whole(least: int) -> Rule:
    """Returns a rule for whole numbers of at least `least`, including floats that are whole, such as 1e6."""

    def rule(field: str, value: object) -> int:
        whole_float = isinstance(value, float | np.floating) and float(value).is_integer()
        try:
            number = int(value) if whole_float else operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or number < least:
            raise ValueError(f"{field} must be a whole number, at least {least}; got {value!r}")
        return number

    return rule


def flag(field: str, value: object) -> bool:
    """The rule for True and False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{field} must be True or False; got {value!r}")
    return bool(value)


def layer_sizes(field: str, value: object) -> tuple[int, ...]:
    """The rule for the widths of a network's hidden layers."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{field} must be a tuple of layer sizes such as (64, 64); got {value!r}")
    return tuple(whole(1)(field, size) for size in value)


def optional(rule: Rule) -> Rule:
    """Returns `rule` for a field that may also be None."""
    return lambda field, value: None if value is None else rule(field, value)


FINITE = real("a finite number", lambda value: True)
POSITIVE = real("a finite number above 0", lambda value: value > 0)
AT_LEAST_0 = real("a finite number, at least 0", lambda value: value >= 0)
UNIT = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
ABOVE_0_TO_1 = real("in (0, 1]", lambda value: 0 < value <= 1)
BELOW_1 = real("a number from 0 to below 1", lambda value: 0 <= value < 1)
TAIL = real("a number between 0 and 0.5", lambda value: 0 < value < 0.5)  # the level of a lower quantile


def setting(rule: Rule, default: object = MISSING) -> Any:
    """Declares a field of a `Checked` dataclass and its rule; a field with the default None also accepts None."""
    return field(default=default, metadata={"rule": optional(rule) if default is None else rule})


def plain(values: Mapping[str, object]) -> dict[str, object]:
    """Returns an algorithm's log or state with Python's own numbers, or tuples of them. Raises TypeError."""

    def of(name: str, value: object) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return tuple(of(name, item) for item in value)
        try:
            return float(value)  # a NumPy number, or a tensor that holds one
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"algorithm: {name}, which it logs or remembers, must be a number; got {value!r}"
            ) from error

    return {name: of(name, value) for name, value in values.items()}


class Checked:
    """Mixin of a frozen dataclass that applies to each field the rule of its `setting`, so equal settings are equal."""

    def __post_init__(self):
        for f in fields(self):
            if rule := f.metadata.get("rule"):
                object.__setattr__(self, f.name, rule(f.name, getattr(self, f.name)))


def filled(instance: Dataclass, **values: object) -> Dataclass:
    """Returns the frozen dataclass with its None fields set from `values`, or itself if there is nothing to set."""
    missing = {name: value for name, value in values.items() if getattr(instance, name) is None}
    return replace(instance, **missing) if missing else instance


def takes(function: object, arguments: int) -> bool:
    """Whether `function` is a callable, not a class, that takes that many positional arguments."""
    if isinstance(function, type) or not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        return True
    return True


def perturbation(field: str, value: object) -> object:
    """The rule for a field that holds a perturbation, or None."""
    if value is None or (is_dataclass(value) and takes(value, 3)):
        return value
    hint = "; a schedule goes into FisherSAM" if is_dataclass(value) and takes(value, 1) else ""
    raise TypeError(
        f"{field} must be None or a perturbation, a frozen dataclass such as FisherSAM(0.001) or AdaptiveSAM(0.75), "
        f"called with (gradient, fisher, samples){hint}; got {value!r}"
    )


def schedule(field: str, value: object) -> object:
    """The rule for a field that holds a schedule of δ_Down, or one number for the whole run."""
    accepted = "a finite number, at least 0, or a schedule of one argument such as FixedAlpha(0.05)"
    return value if takes(value, 1) else real(accepted, lambda number: number >= 0)(field, value)


def vector(field: str, value: object, shape: tuple | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Returns `value`, a floating-point tensor of the given shape, (P,) by default, and type; else raises TypeError."""
    right = isinstance(value, Tensor) and value.is_floating_point() and dtype in (None, value.dtype)
    if right and (value.dim() == 1 if shape is None else value.shape == shape):
        return value
    wanted = "of floating-point numbers" if dtype is None else f"of {dtype}"
    got = f"{type(value).__name__} {value!r:.40}"
    if isinstance(value, Tensor):
        got = f"{value.dtype} of shape {tuple(value.shape)}"
    raise TypeError(f"{field} must be a tensor {wanted}, of shape {shape or '(P,)'}; got {got}")


def epsilon_of(
    perturb: Callable, gradient: Tensor, fisher: object, samples: object, trial: bool = False
) -> Tensor:
    """Returns ε of a perturbation, checked. The perturbation gets a copy of the gradient, which it may write into, and
    what it writes into fields of `fisher`, such as damping, holds for itself only.

    trial: whether the gradient is made up. Then errors of the perturbation and non-finite numbers in ε are ignored.
    Raises TypeError if ε is not a tensor of the gradient's shape and type, and NonFiniteError if it is not finite.
    """
    name, before = type(perturb).__name__, {k: v for k, v in vars(fisher).items() if k != "_last"}
    try:
        epsilon = perturb(gradient.clone(), fisher, samples)
    except Exception:
        if trial:
            return gradient
        raise
    vector(f"actor: ε that {name} returns", epsilon, tuple(gradient.shape), gradient.dtype)
    if not trial and not torch.isfinite(epsilon).all():
        raise NonFiniteError(f"ε of {name} became non-finite")
    if any(vars(fisher).get(field) is not value for field, value in before.items()):
        vars(fisher).update(before, _last=None)  # the last solution is that of another operator
    return epsilon.detach()


def try_out(perturb: Callable | None, fisher: object, samples: object) -> None:
    """Raises TypeError, before anything is trained, if a user's perturbation returns no ε, and what a schedule raises.

    fisher: operator F at the initial parameters. samples: as the first update gives them.
    """
    if hasattr(perturb, "radius"):
        perturb.radius(samples)
    if perturb is not None and type(perturb).__module__.partition(".")[0] != "shapo":
        epsilon_of(perturb, torch.ones_like(fisher.theta), fisher, samples, trial=True)
