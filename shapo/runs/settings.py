"""What tells the configs of a study apart, to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pandas as pd

from shapo.runs.identity import RunConfig

ALWAYS = ("task", "algorithm", "seed")


def settings(configs: Sequence[RunConfig]) -> pd.DataFrame:
    """A row per config: task, algorithm, whichever other fields differ among them, seed."""
    names = dict.fromkeys(f.name for config in configs for f in fields(config))
    table = pd.DataFrame(
        {name: [spelled(getattr(config, name, None)) for config in configs] for name in names}
        | {"task": [str(config.task) for config in configs]}
    )
    differing = [name for name in table if name not in ALWAYS and table[name].nunique() > 1]
    return table[["task", "algorithm", *differing, "seed"]]


def spelled(value: Any) -> Any:
    """A number as it is, else text: of a dataclass its name and the fields that are not at their defaults."""
    if isinstance(value, bool | int | float | str):
        return value
    if not is_dataclass(value):
        return "none" if value is None else str(value)
    told = [
        f"{f.name}={spelled(getattr(value, f.name))}"
        for f in fields(value)
        if f.default is MISSING or getattr(value, f.name) != f.default
    ]
    return type(value).__name__ + (f"({', '.join(told)})" if told else "")
