"""Formulas as graphs: written once in Python, differentiated backwards, and printed as C++ for many robots at a time.

A robot's laws of motion are a few thousand additions and multiplications, most of them with constants of its body,
many of which are 0 or 1. Run on `Expression`s instead of numbers, they record in a graph the operations that remain.
`gradients` adds the derivatives to the graph, and `c_function` prints it, each value a vector with a lane per robot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Value: TypeAlias = "Expression | float"


def _operator(op: str) -> tuple[Callable, Callable]:
    """The methods for `self op other` and `other op self`."""
    return lambda self, other: _apply(op, self, other), lambda self, other: _apply(op, other, self)


class Expression:
    """A node of a formula's graph: an operation on expressions and numbers. Equal nodes of a graph are one object.

    Arithmetic works as on numbers. It also works in numpy's object arrays, so `R @ v` and `np.cross` do. An operation
    whose outcome is known, such as x · 0, adds no node.
    """

    __slots__ = ("args", "graph", "index", "op")

    def __init__(self, graph: Graph, op: str, args: tuple, index: int):
        self.graph, self.op, self.args, self.index = graph, op, args, index

    def __bool__(self) -> bool:
        raise TypeError("what an Expression is worth is not known yet: choose by `where(condition, x, y)`")

    __add__, __radd__ = _operator("+")
    __sub__, __rsub__ = _operator("-")
    __mul__, __rmul__ = _operator("*")
    __truediv__, __rtruediv__ = _operator("/")
    __lt__, __gt__ = _operator("<")

    def __neg__(self):
        return _apply("-", 0.0, self)


class Graph:
    """All expressions of a formula, each kept once; `variables` makes its inputs."""

    def __init__(self):
        self._known: dict[tuple, Expression] = {}

    def variables(self, name: str, count: int) -> NDArray:
        """New inputs (count,), an object array of expressions."""
        return np.array([self.node("input", name, i) for i in range(count)], dtype=object)

    def node(self, op: str, *args) -> Expression:
        return self._known.setdefault((op, *args), Expression(self, op, args, len(self._known)))


def _apply(op: str, *args):
    """The operation as an expression, or its result where no operation is needed: a number or an argument."""
    if any(isinstance(arg, np.ndarray) for arg in args):
        return NotImplemented  # numpy then applies the operator to each element
    numbers = [None if isinstance(arg, Expression) else float(arg) for arg in args]
    if None not in numbers:
        return float(NUMERIC[op](*numbers))
    equals = op == "where" and (args[1] is args[2] or None is not numbers[1] == numbers[2])
    if equals or (op == "where" and numbers[0] is not None):
        return args[1] if numbers[0] != 0 else args[2]
    if len(args) == 2:
        (a, b), (x, y) = args, numbers
        if (op == "+" and x == 0) or (op == "*" and x == 1):
            return b
        if (op in "+-" and y == 0) or (op in "*/" and y == 1):
            return a
        if (op == "*" and 0 in (x, y)) or (op == "/" and x == 0):
            return 0.0
        if op == "/" and y is not None:
            return _apply("*", a, 1 / y)
        if op == "-" and a is b:
            return 0.0
        if op == "*" and -1 in (x, y):
            return -(b if y is None else a)
        # Signs move outwards, where they meet and cancel.
        if op in "+-" and _negated(b):
            return _apply("-" if op == "+" else "+", a, b.args[1])
        if op == "+" and _negated(a):
            return _apply("-", b, a.args[1])
        if op in "*/" and (_negated(a) or _negated(b)):
            inner = _apply(op, *(arg.args[1] if _negated(arg) else arg for arg in args))
            return inner if _negated(a) and _negated(b) else -inner
        # a · b and b · a share one node, in an order that is the same in every process, so results repeat bit by bit.
        if op == "*" and (y is not None or (x is None and a.index > b.index)):
            args = b, a
    args = [arg if isinstance(arg, Expression) else float(arg) for arg in args]
    graph = next(arg.graph for arg in args if isinstance(arg, Expression))
    return graph.node(op, *args)


def _negated(value: Value) -> bool:
    return isinstance(value, Expression) and value.op == "-" and value.args[0] == 0.0


sqrt, sin, cos = (partial(_apply, op) for op in ("sqrt", "sin", "cos"))


def where(condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, else y. Gradients pass to the one that is taken, and never to the condition."""
    return _apply("where", condition, x, y)


NUMERIC: dict[str, Callable] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "<": np.less, "where": np.where,
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos,
}  # fmt: skip

# Gradients with respect to an operation's arguments, from g, the gradient with respect to its result r.
ADJOINT: dict[str, Callable] = {
    "+": lambda g, r, a, b: (g, g),
    "-": lambda g, r, a, b: (g, -g),
    "*": lambda g, r, a, b: (g * b, g * a),
    "/": lambda g, r, a, b: (g / b, -(g / b) * r),
    "sqrt": lambda g, r, a: (0.5 * g / r,),
    "sin": lambda g, r, a: (g * cos(a),),
    "cos": lambda g, r, a: (-g * sin(a),),
    "where": lambda g, r, c, a, b: (0.0, where(c, g, 0.0), where(c, 0.0, g)),
}


def gradients(outputs: Iterable[Value], seeds: Iterable[Value], inputs: Iterable[Expression]) -> list[Value]:
    """The gradient of Σ seed · output with respect to every input, as expressions, by reverse differentiation."""
    outputs, collected = list(outputs), {}
    for output, seed in zip(outputs, seeds, strict=True):
        if isinstance(output, Expression):
            collected[output] = collected.get(output, 0.0) + seed
    for node in reversed(ordered(outputs)):
        if node.op in ADJOINT and node in collected:
            shares = ADJOINT[node.op](collected[node], node, *node.args)
            for arg, share in zip(node.args, shares, strict=True):
                if isinstance(arg, Expression):
                    collected[arg] = collected.get(arg, 0.0) + share
    return [collected.get(value, 0.0) for value in inputs]


def ordered(outputs: Iterable[Value]) -> list[Expression]:
    """All expressions that the outputs depend on, the outputs included, arguments before their uses."""
    order, stack = {}, [(value, False) for value in outputs if isinstance(value, Expression)][::-1]
    while stack:
        node, ready = stack.pop()
        if ready:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args) if isinstance(arg, Expression)]
    return list(order)


def evaluate(outputs: Sequence[Value], inputs: Mapping[str, NDArray]) -> NDArray:
    """Values (len(outputs), N) in float64 at inputs {name: (count, N)}. Slow: for drawings, and to check the C++."""
    values: dict[Value, NDArray] = {}
    for node in ordered(outputs):
        if node.op == "input":
            name, index = node.args
            values[node] = np.asarray(inputs[name], np.float64)[index]
        else:
            values[node] = NUMERIC[node.op](*(values.get(arg, arg) for arg in node.args))
    (count,) = {np.shape(array)[1] for array in inputs.values()}
    return np.array([np.broadcast_to(values.get(value, value), count) for value in outputs], np.float64)


def c_function(name: str, outputs: Mapping[str, Sequence[Value]], inputs: Sequence[str]) -> str:
    """C++ source of a lambda `name(inputs…, outputs…)` on arrays of the vector type V, which writes the outputs."""
    text, lines = {}, []

    def written(value: Value) -> str:
        if isinstance(value, Expression):
            return text[value]
        if not np.isfinite(value):
            raise ValueError(f"a formula must hold finite numbers; got {value}")
        return f"V({float(value)!r}f)"

    for node in ordered(value for values in outputs.values() for value in values):
        if node.op == "input":
            text[node] = "{}[{}]".format(*node.args)
            continue
        if node.op == "where":
            code = "{} ? {} : {}".format(*map(written, node.args))
        elif len(node.args) == 1:
            code = f"lane_{node.op}({written(node.args[0])})"
        elif _negated(node):
            code = f"-{written(node.args[1])}"
        else:
            code = "{1} {0} {2}".format(node.op, *map(written, node.args))
        if node.op == "<":  # a comparison gives a vector of integers, not a V
            text[node] = f"({code})"
            continue
        text[node] = f"x{len(lines)}"
        lines.append(f"const V {text[node]} = {code};")
    for key, values in outputs.items():
        lines += [f"{key}[{i}] = {written(value)};" for i, value in enumerate(values)]
    parameters = [*(f"const V* {key}" for key in inputs), *(f"V* {key}" for key in outputs)]
    return f"auto {name} = []({', '.join(parameters)}) {{\n" + "\n".join(lines) + "\n};\n"
