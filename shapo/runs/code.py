"""A hash of the code of the user's own classes and functions, equal in every process and different once edited."""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import Space

PLAIN = (types.NoneType, types.EllipsisType, bool, int, float, complex, str, bytes)
PARTS = {  # type of a wrapper -> its attributes that hold the function and the rest of its arguments
    staticmethod: ("__func__",), classmethod: ("__func__",), MethodType: ("__func__", "__self__"),
    property: ("fget", "fset", "fdel"), functools.cached_property: ("func",),
    functools.partial: ("func", "args", "keywords"), functools.partialmethod: ("func", "args", "keywords"),
    functools.singledispatchmethod: ("dispatcher",),
    functools._lru_cache_wrapper: ("__wrapped__", "cache_parameters"),
    np.vectorize: ("pyfunc", "otypes", "signature", "excluded"),
}  # fmt: skip
CALLABLE = (FunctionType, *PARTS)
STATE = (list, dict, set, ModuleType)  # what is not seen of a module; it may change while a run trains
GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME"), "STORE_GLOBAL"
ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD"), "STORE_ATTR"
NAMED = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)
# The methods that @dataclass writes follow from the fields, which a description names anyway.
GENERATED = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}


def code_hash(value: type | FunctionType) -> str:
    """Returns the hash of the compiled code of a class or function, since notebook code travels without its source.

    The hash covers wrappers, closures, defaults, class attributes, nested and base classes, and whatever the code reads
    from its module and from the user's other modules. Their lists, dictionaries and sets, and what the code itself
    assigns (`global`), are state and not covered. Installed code and this package go by name only, random generators by
    their seed. All is hashed as it is now, so what changes while it runs, such as a counter, belongs into a dictionary.
    Raises TypeError, naming the variable, if it has no content to hash, such as an open file or a lock.
    """
    return hashlib.sha256(repr(_Content(value).of(value, inside=True)).encode()).hexdigest()[:12]


def installed(module: Any) -> bool:
    """Whether a `__module__` comes with Python, an installed distribution or this package, and not from the user."""
    if not isinstance(module, str | None):  # compiled types may have a descriptor there
        return True
    root = (module or "").partition(".")[0]
    if root == "shapo" or root in sys.stdlib_module_names:
        return True
    if root == "__main__":  # in a notebook, its file is ipykernel's
        return False
    origin = Path(getattr(sys.modules.get(root), "__file__", None) or "")
    return not {"site-packages", "dist-packages"}.isdisjoint(origin.parts)


class _Content:
    """The content of a piece of code that distinguishes it from others, as nested tuples of plain values."""

    def __init__(self, whole: type | FunctionType):
        self.whole, self.seen = whole, {}  # seen: id -> (number, object), against cycles and repetition
        self.reading: list[str] = []  # names of the modules' variables that led here

    def of(self, value: Any, inside: bool = False) -> Any:
        """Returns the content of `value`. inside: whether to look into a class even if it is installed."""
        if type(value) in PLAIN:
            return value
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if isinstance(value, CodeType):  # without file names and line numbers
            names = value.co_names, value.co_varnames, value.co_freevars
            counts = value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags
            return value.co_code, value.co_exceptiontable, *map(self.of, value.co_consts), *names, *counts
        if isinstance(value, tuple):
            return self.of(type(value)), *map(self.of, value)
        if isinstance(value, set | frozenset):
            return "set", *sorted(map(self.of, value), key=repr)
        if id(value) in self.seen:
            return "seen", self.seen[id(value)][0]
        if isinstance(value, CALLABLE) or isinstance(value, type | list | dict) or hasattr(value, "__dict__"):
            self.seen[id(value)] = len(self.seen), value
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, type):
            if inside or not installed(value.__module__):
                return self._of_class(value)
            module = value.__module__ if isinstance(value.__module__, str) else ""
            return f"{module.partition('.')[0]}.{value.__qualname__}"
        for kind, parts in PARTS.items():
            if isinstance(value, kind):
                return self.of(type(value)), *(self.of(getattr(value, part)) for part in parts)
        if isinstance(value, list):
            return "list", *map(self.of, value)
        if isinstance(value, dict | types.MappingProxyType):
            return "dict", *((self.of(key), self.of(item)) for key, item in value.items())
        return value.__qualname__ if isinstance(value, NAMED) else self._of_object(value)

    def _of_function(self, function: FunctionType) -> tuple:
        if hasattr(function, "registry") and hasattr(function, "dispatch"):  # functools.singledispatch
            return "dispatch", self.of(function.registry)
        code, module = function.__code__, function.__globals__
        if installed(module.get("__name__")):  # it goes by name, but what it wraps may be the user's
            content = code.co_qualname
        else:
            content = [self.of(code)]
            for name, value in _read(code, module):
                self.reading.append(name)
                content.append((name, self.of(value)))
                self.reading.pop()
        enclosed = [_enclosed(cell) for cell in function.__closure__ or ()]
        given = function.__defaults__, function.__kwdefaults__, enclosed, vars(function)
        return content, *map(self.of, given)

    def _of_class(self, kind: type) -> tuple:
        skipped = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        members = []
        for name, member in sorted(vars(kind).items()):
            dunder = name.startswith("__") and name.endswith("__")
            if name in skipped or name == "_abc_impl" or (dunder and not isinstance(member, CALLABLE)):
                continue
            if name in GENERATED and inspect.unwrap(member).__code__.co_filename == "<string>":
                continue
            members.append((name, self.of(member)))
        return "class", self.of(type(kind)), *map(self.of, kind.__bases__), *members

    def _of_object(self, value: Any) -> tuple:
        try:
            if isinstance(value, torch.Tensor):  # a tensor's pickle holds addresses
                return "tensor", str(value.dtype), self.of(value.detach().cpu().numpy())
            if isinstance(value, np.random.BitGenerator):  # its state moves on with every draw
                seed = value.seed_seq
                given = getattr(seed, "entropy", None), getattr(seed, "spawn_key", None)
                return self.of(type(value)), self.of(given)
            if isinstance(value, torch.Generator):
                return self.of(type(value)), value.initial_seed()
            if isinstance(value, np.random.RandomState):  # it does not know its seed
                return (self.of(type(value)),)
            registered = copyreg.dispatch_table.get(type(value))
            reduced = registered(value) if registered else value.__reduce_ex__(2)
            if isinstance(reduced, str):
                return self.of(type(value)), reduced
            parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
            if len(parts) > 2 and isinstance(parts[2], dict):
                parts[2] = _lasting(value, parts[2])
            return tuple(map(self.of, parts))
        except _NoContentError:  # of what this object holds
            raise
        except Exception as error:
            where = f"reads {self.reading[-1]}, which holds" if self.reading else "holds"
            raise _NoContentError(
                f"{self.whole.__qualname__} cannot be named by its code: that {where} {value!r}, whose content is not "
                "to be had. Keep in a class and its module plain values, functions, classes, and objects that can be "
                "pickled; put what decides a run into a field"
            ) from error


class _NoContentError(TypeError):
    pass


def _lasting(value: Any, state: dict) -> dict:
    """Returns an object's state without what use adds to it: cached properties, and the generator of a Space."""
    members = inspect.getmembers_static(type(value))
    cached = {name for name, member in members if isinstance(member, functools.cached_property)}
    kept = {name: part for name, part in state.items() if name not in cached}
    return kept | {"_np_random": None} if isinstance(value, Space) else kept


def _enclosed(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _read(code: CodeType, module: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns names and values of what `code` reads from its module and the user's modules in that, but for STATE."""
    read = [(name, module[name]) for name in _loaded(code, *GLOBALS) if name in module]
    followed = set()
    for name, value in read:  # which grows on the way
        if isinstance(value, ModuleType) and value not in followed and not installed(value.__name__):
            followed.add(value)
            held = vars(value)
            read += [(f"{name}.{part}", held[part]) for part in _loaded(code, *ATTRIBUTES) if part in held]
    return [(name, value) for name, value in read if not isinstance(value, STATE)]


@functools.lru_cache(maxsize=1024)
def _loaded(code: CodeType, loads: tuple[str, ...], store: str) -> tuple[str, ...]:
    """Returns the names that a function, and the functions within it, load and never store, in order."""
    steps = dict.fromkeys(
        (step.opname, step.argval) for part in _parts(code) for step in dis.get_instructions(part)
    )
    return tuple(dict.fromkeys(name for op, name in steps if op in loads and (store, name) not in steps))


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _parts(inner)
