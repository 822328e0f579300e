"""Checks: what a field of a frozen dataclass accepts, and the error for numbers that went wrong on the way.

`check(self, rho=AT_LEAST_0)` keeps a field as a plain number, or refuses it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np


class NonFiniteError(FloatingPointError):
    """A reward, cost, observation, gradient or parameter became NaN or infinite."""


Dataclass = TypeVar("Dataclass")
Rule = Callable[[str, object], object]  # (field, value) -> the plain value, or ValueError


def real(accepted: str, holds: Callable[[float], bool]) -> Rule:
    """A rule for finite numbers, Python's or NumPy's; `accepted` is what the message says they must be."""

    def rule(field: str, value: object) -> float:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not holds(value):
            raise ValueError(f"{field} must be {accepted}; got {value!r}")
        return float(value) + 0.0  # −0.0 and 0.0 are one setting

    return rule


def whole(least: int) -> Rule:
    """A rule for whole numbers from `least`."""

    def rule(field: str, value: object) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or number < least:
            raise ValueError(f"{field} must be a whole number, at least {least}; got {value!r}")
        return number

    return rule


def optional(rule: Rule) -> Rule:
    """The same rule for a field that may be None."""
    return lambda field, value: None if value is None else rule(field, value)


FINITE = real("a finite number", lambda value: True)
POSITIVE = real("a finite number above 0", lambda value: value > 0)
AT_LEAST_0 = real("a finite number, at least 0", lambda value: value >= 0)
UNIT = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = real("a number from 0 to below 1", lambda value: 0 <= value < 1)
TAIL = real("a number between 0 and 0.5", lambda value: 0 < value < 0.5)  # the level of a lower quantile


def filled(instance: Dataclass, **values: object) -> Dataclass:
    """The frozen dataclass with `values` in those of its fields that are None; itself where none is."""
    missing = {name: value for name, value in values.items() if getattr(instance, name) is None}
    return replace(instance, **missing) if missing else instance


def check(instance: object, **rules: Rule) -> None:
    """Applies a rule to each named field of a frozen dataclass: equal settings become equal, plain values."""
    for field, rule in rules.items():
        object.__setattr__(instance, field, rule(field, getattr(instance, field)))
