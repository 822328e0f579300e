"""The references' random generators, kept as numeric arrays so that a saved state continues exactly.

safety_gymnasium draws from numpy's `RandomState` (MT19937), gymnasium from its `Generator` (PCG64). A kind of
generator says how one is seeded as the reference seeds it, and how several are saved and restored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

_WORD = 2**64


class MersenneTwister:
    """`np.random.RandomState(seed)`."""

    limits: ClassVar[dict[str, int]] = {"random_position": 624}  # the largest valid value of a saved array

    @staticmethod
    def seeded(seed: int) -> np.random.RandomState:
        return np.random.RandomState(seed)

    @staticmethod
    def save(generators: Sequence[np.random.RandomState]) -> dict[str, np.ndarray]:
        states = [random.get_state(legacy=False) for random in generators]
        return {
            "random_key": np.stack([state["state"]["key"] for state in states]),
            "random_position": np.array([state["state"]["pos"] for state in states], dtype=np.int64),
            "random_gauss": np.array([(state["has_gauss"], state["gauss"]) for state in states]),
        }

    @staticmethod
    def load(state: Mapping[str, np.ndarray]) -> list[np.random.RandomState]:
        generators = []
        for key, position, (has_gauss, gauss) in zip(
            state["random_key"], state["random_position"], state["random_gauss"], strict=True
        ):
            random = np.random.RandomState()
            random.set_state(("MT19937", key, int(position), int(has_gauss), float(gauss)))
            generators.append(random)
        return generators


class PermutedCongruential:
    """`np.random.default_rng(seed)`, which is what gymnasium's `reset(seed=seed)` makes."""

    limits: ClassVar[dict[str, int]] = {}

    @staticmethod
    def seeded(seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)

    @staticmethod
    def save(generators: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        """State and increment have 128 bits each: rows (high, low, high, low); the rest is the spare half word."""
        states = [random.bit_generator.state for random in generators]
        numbers = [(state["state"]["state"], state["state"]["inc"]) for state in states]
        words = [(*divmod(number, _WORD), *divmod(increment, _WORD)) for number, increment in numbers]
        return {
            "random_words": np.array(words, dtype=np.uint64),
            "random_spare": np.array([(s["has_uint32"], s["uinteger"]) for s in states], dtype=np.uint32),
        }

    @staticmethod
    def load(state: Mapping[str, np.ndarray]) -> list[np.random.Generator]:
        generators = []
        for words, spare in zip(state["random_words"].tolist(), state["random_spare"].tolist(), strict=True):
            bits: Any = np.random.PCG64()
            bits.state = {
                "bit_generator": "PCG64",
                "state": {"state": words[0] * _WORD + words[1], "inc": words[2] * _WORD + words[3]},
                "has_uint32": spare[0],
                "uinteger": spare[1],
            }
            generators.append(np.random.Generator(bits))
        return generators
