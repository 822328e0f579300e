"""A hash of the code of the user's own classes and functions, equal in every process and different once edited."""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import inspect
import sys
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

PLAIN = (types.NoneType, types.EllipsisType, bool, int, float, complex, str, bytes)
PARTS = {  # type of a wrapper -> its attributes that hold the function and the rest of its arguments
    staticmethod: ("__func__",), classmethod: ("__func__",), MethodType: ("__func__", "__self__"),
    property: ("fget", "fset", "fdel"), functools.cached_property: ("func",),
    functools.partial: ("func", "args", "keywords"), functools.partialmethod: ("func", "args", "keywords"),
    functools.singledispatchmethod: ("dispatcher",),
    functools._lru_cache_wrapper: ("__wrapped__", "cache_parameters"),
}  # fmt: skip
CALLABLE = (FunctionType, *PARTS)
NAMED = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)
# The methods that @dataclass writes follow from the fields, which a description names anyway.
GENERATED = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}


def code_hash(value: type | FunctionType) -> str:
    """Returns the hash of the compiled code of a class or function, since notebook code travels without its source.

    The hash covers wrappers, closures, defaults, class attributes, nested and base classes, and the user's own
    functions, classes and plain constants that the code reads from its module. Installed code and this package go by
    name only. Raises TypeError if something has no content to hash, such as an open file or a lock.
    """
    return hashlib.sha256(repr(_Content(value).of(value, inside=True)).encode()).hexdigest()[:12]


def installed(module: str | None) -> bool:
    """Whether a module comes with Python, an installed distribution or this package, and not from the user."""
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

    def of(self, value: Any, inside: bool = False) -> Any:
        """Returns the content of `value`. inside: whether to look into a class even if it is installed."""
        if type(value) in PLAIN:
            return value
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if isinstance(value, CodeType):  # without file names and line numbers
            consts = tuple(map(self.of, value.co_consts))
            return value.co_code, consts, value.co_names, value.co_varnames, value.co_freevars
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
            return f"{value.__module__.partition('.')[0]}.{value.__qualname__}"
        for kind, parts in PARTS.items():
            if isinstance(value, kind):
                return self.of(type(value)), *(self.of(getattr(value, part)) for part in parts)
        if isinstance(value, list):
            return "list", *map(self.of, value)
        if isinstance(value, dict | types.MappingProxyType):
            return "dict", *((self.of(key), self.of(item)) for key, item in value.items())
        if isinstance(value, torch.Tensor):  # a tensor's pickle holds addresses
            return "tensor", str(value.dtype), self.of(value.detach().cpu().numpy())
        return value.__qualname__ if isinstance(value, NAMED) else self._of_object(value)

    def _of_function(self, function: FunctionType) -> tuple:
        if hasattr(function, "registry") and hasattr(function, "dispatch"):  # functools.singledispatch
            return "dispatch", self.of(function.registry)
        code, module = function.__code__, function.__globals__
        if installed(module.get("__name__")):  # it goes by name, but what it wraps may be the user's
            content = code.co_qualname
        else:
            read = {name: module[name] for name in _global_names(code) if name in module}
            kept = {n: v for n, v in read.items() if isinstance(v, (*CALLABLE, type)) or type(v) in PLAIN}
            content = self.of(code), *((name, self.of(value)) for name, value in kept.items())
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
            registered = copyreg.dispatch_table.get(type(value))
            reduced = registered(value) if registered else value.__reduce_ex__(2)
        except Exception as error:
            raise TypeError(
                f"{self.whole.__qualname__} cannot be named by its code: that holds {value!r}, whose content is not "
                "to be had. Keep in a class plain values, functions, classes, and objects that can be pickled"
            ) from error
        if isinstance(reduced, str):
            return self.of(type(value)), reduced
        return tuple(self.of(list(part) if hasattr(part, "__next__") else part) for part in reduced)


def _enclosed(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


@functools.lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Returns the names that a function, and the functions within it, read from the module, in order."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names += _global_names(inner)
    return tuple(dict.fromkeys(names))
