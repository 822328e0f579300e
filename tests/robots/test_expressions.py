"""Formulas as graphs: what is known leaves no trace, gradients are PyTorch's, and the C computes them."""

import numpy as np
import pytest
import torch

from shapo.robots.simulator import expressions
from shapo.robots.simulator.expressions import (
    Expression,
    Graph,
    c_function,
    evaluate,
    gradients,
    ordered,
    sqrt,
    where,
)
from shapo.robots.simulator.kernels import LANES, PRELUDE
from shapo.robots.simulator.mechanism import wp


@pytest.fixture
def inputs():
    return Graph().variables("x", 4)


def test_what_is_known_leaves_no_trace(inputs):
    a, b, *_ = inputs
    assert (a * 0, 0.0 * a, 0.0 / a, a - a, where(1.0, 2.0, a), where(a < b, 3.0, 3.0)) == (0, 0, 0, 0, 2, 3)
    for same in (a + 0, 0 + a, a * 1, 1 * a, a / 1, a - 0, 0 - (0 - a), where(a < b, a, a), -1 * -a):
        assert same is a
    assert a + -b is a - b and a - -b is a + b and -a * b is -(a * b) and -a * -b is a * b and -a + b is b - a
    assert a * b is b * a and a / 4 is a * 0.25
    assert sqrt(4.0) == 2.0 and isinstance(sqrt(4.0), float)
    assert len(ordered([a * b + b * a])) == 4  # two inputs, one product, one sum


def test_what_cannot_be_known_is_no_condition_of_python(inputs):
    with pytest.raises(TypeError, match="where"):
        max(inputs[0], inputs[1])
    with pytest.raises(ValueError, match="finite"):
        c_function("f", {"y": [inputs[0] + np.inf]}, ["x"])


def test_it_works_within_numpy(inputs):
    R, v = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=object), inputs[:3]
    x, y, z = R @ v
    assert (x is -v[1]) and y is v[0] and z is v[2]
    assert np.cross(v, np.array([0.0, 0.0, 1.0], dtype=object))[0] is v[1]


def formula(a, b, c, d, f):
    """Of every operation; f has those that are no operators."""
    kink = f.where(a < b, a * b, -c)
    root = f.sqrt(kink * kink + 1.0 + d * d)
    return [f.sin(a) * root / (c - 3.0), f.cos(root - b) - f.where(d > 0.5, kink, 2.0 * d), a + 0.0 * b]


@pytest.fixture
def numbers():
    return np.random.default_rng(0).uniform(-2, 2, (4, 200))


def by_torch(numbers, seeds):
    leaves = [torch.tensor(row, requires_grad=True) for row in numbers]
    outputs = formula(*leaves, torch)
    total = sum((torch.tensor(seed) * output).sum() for seed, output in zip(seeds, outputs, strict=True))
    return [output.detach().numpy() for output in outputs], [
        g.numpy() for g in torch.autograd.grad(total, leaves)
    ]


@pytest.fixture
def graph_of_it():
    graph = Graph()
    x, g = graph.variables("x", 4), graph.variables("g", 3)
    outputs = formula(*x, expressions)
    return outputs, gradients(outputs, g, x)


def test_values_and_gradients_are_those_of_pytorch(numbers, graph_of_it):
    seeds = np.random.default_rng(1).standard_normal((3, 200))
    outputs, slopes = graph_of_it
    expected = by_torch(numbers, seeds)
    np.testing.assert_allclose(evaluate(outputs, {"x": numbers}), expected[0], rtol=1e-12)
    np.testing.assert_allclose(
        evaluate(slopes, {"x": numbers, "g": seeds}), expected[1], rtol=1e-11, atol=1e-12
    )


def test_the_c_that_is_printed_computes_them(numbers, graph_of_it):
    outputs, slopes = graph_of_it
    seeds = np.ones((3, 200))
    code = c_function("both", {"y": outputs, "s": slopes}, ["x", "g"])
    array = wp.array(dtype=float)

    @wp.func_native(
        PRELUDE + code + "V x[4], g[3], y[3], s[4]; load(x_in, x, 4); load(g_in, g, 3); both(x, g, y, s);"
        "store(y, y_out, 3); store(s, s_out, 4);"
    )
    def run(block: int, count: int, x_in: array, g_in: array, y_out: array, s_out: array): ...

    def kernel(count: int, x_in: array, g_in: array, y_out: array, s_out: array):
        run(wp.tid(), count, x_in, g_in, y_out, s_out)

    kernel, rows = wp.kernel(kernel, enable_backward=False, module="unique"), np.zeros((7, 200), np.float32)
    y, s = (wp.zeros(200 * n, dtype=float, device="cpu") for n in (3, 4))
    x, g = (
        wp.array(values.T.astype(np.float32).ravel(), dtype=float, device="cpu")
        for values in (numbers, seeds)
    )
    wp.launch(kernel, -(-200 // LANES), [200, x, g, y, s], device="cpu")  # the last block is not full
    rows = np.concatenate([y.numpy().reshape(200, 3).T, s.numpy().reshape(200, 4).T])
    expected = np.concatenate(by_torch(numbers.astype(np.float32).astype(float), seeds))
    np.testing.assert_allclose(rows, expected, rtol=2e-4, atol=2e-5)


def test_no_gradient_passes_what_is_not_taken(inputs):
    """Not even a NaN: the root's slope at 0 is infinite."""
    a, b, *_ = inputs
    safe = where(a > 0.0, b / sqrt(where(a > 0.0, a, 1.0)), 0.0)
    values = evaluate(gradients([safe], [1.0], [a, b]), {"x": np.array([[0.0], [3.0], [0.0], [0.0]])})
    np.testing.assert_array_equal(values, 0.0)
    assert isinstance(safe, Expression)
