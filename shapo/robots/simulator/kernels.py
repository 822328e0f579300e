"""A control step of a robot and its derivative as two kernels: straight-line C++, in vectors of 16 robots.

The formulas of `dynamics` are written out for one robot with the constants of its body; Warp compiles them once and
keeps the result. The derivative runs the substeps forward, keeping their states, and then backward. Outside the kernel
only the state at each control step is kept, so memory does not grow with the substeps.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from shapo.robots.simulator import dynamics
from shapo.robots.simulator.catalogue import CONTROL_DT, Robot
from shapo.robots.simulator.expressions import Expression, Graph, Value, c_function, gradients
from shapo.robots.simulator.mechanism import mechanism, wp

LANES = 16  # robots in a vector of 512 bits; where the processor's are shorter, the compiler uses several

# If the last block is not full, its free lanes repeat the last robot, and only the first of these copies is stored.
PRELUDE = f"""
typedef float V __attribute__((ext_vector_type({LANES})));
static constexpr auto lane_sqrt = [](V x) {{ return __builtin_elementwise_sqrt(x); }};
static constexpr auto lane_sin = [](V x) {{ V y; for (int i = 0; i < {LANES}; ++i) y[i] = ::sinf(x[i]); return y; }};
static constexpr auto lane_cos = [](V x) {{ V y; for (int i = 0; i < {LANES}; ++i) y[i] = ::cosf(x[i]); return y; }};
const int first = block * {LANES};
auto load = [=](const wp::array_t<float>& from, V* to, int n) {{
    for (int i = 0; i < {LANES}; ++i) {{
        const int row = first + i < count ? first + i : count - 1;
        for (int k = 0; k < n; ++k) to[k][i] = from.data[row * n + k];
    }}
}};
auto store = [=](const V* from, const wp::array_t<float>& to, int n) {{
    for (int i = 0; i < {LANES} && first + i < count; ++i)
        for (int k = 0; k < n; ++k) to.data[(first + i) * n + k] = from[k][i];
}};
"""


class Formulas:
    """What a control step computes, as one graph: `factor`, L at its start, and `after`, q and q̇ after a substep."""

    def __init__(self, robot: Robot):
        parts, n, graph = mechanism(robot), robot.actions, Graph()
        sizes = {"q": 7 + n, "qd": 6 + n, "u": n, "contact": 3}  # contact: k_e, k_d, μ
        self.given = {name: graph.variables(name, size) for name, size in sizes.items()}
        q, qd, torque, contact = self.given.values()
        placed = dynamics.poses(parts, q)
        self.limbs = dynamics.limbs(parts, placed)
        L = dynamics.factor(dynamics.mass_matrix(parts, placed))
        filled = [place for place in np.ndindex(L.shape) if isinstance(L[place], Expression)]
        self.factor = [L[place] for place in filled]
        self.given["L"] = graph.variables("L", len(filled))
        for place, value in zip(filled, self.given["L"], strict=True):
            L[place] = value
        qdd = dynamics.solve(L, dynamics.forces(parts, placed, q, qd, torque, contact))
        dt = CONTROL_DT / robot.substeps
        after = dynamics.integrate(parts, placed[0], q, qd, qdd, dt)
        self.after = dict(zip(("q_new", "qd_new"), after, strict=True))
        names = "q", "qd", "L"
        self._adjoint = {name: graph.variables(f"{name}_bar", len(self.given[name])) for name in names}

    def back(self) -> dict[str, list[Value]]:
        """The gradients ∂/∂(q, q̇, u, L) of Σ q_bar q_new + Σ qd_bar qd_new, through one substep."""
        outputs = np.concatenate([*self.after.values()])
        seeds, wanted = np.concatenate([self._adjoint["q"], self._adjoint["qd"]]), ("q", "qd", "u", "L")
        found = iter(gradients(outputs, seeds, np.concatenate([self.given[name] for name in wanted])))
        return {f"{name}_to": [next(found) for _ in self.given[name]] for name in wanted}

    def factor_back(self) -> list[Value]:
        """The gradient ∂/∂q of Σ L_bar L, through the factor."""
        return gradients(self.factor, self._adjoint["L"], self.given["q"])


@cache
def formulas(robot: Robot) -> Formulas:
    return Formulas(robot)


def _begin(robot: Robot) -> str:
    """C++ source that both kernels begin with: the formulas, and all substeps forward. As level ground is the same
    everywhere, the step is taken at x = y = 0, where moments about the world's origin lose no digits to distance.
    """
    known = formulas(robot)
    size = {name: len(values) for name, values in known.given.items()}
    factor = c_function("factor", {"L": known.factor}, ["q"])
    substep = c_function("substep", known.after, ["q", "qd", "u", "contact", "L"])
    return f"""{PRELUDE}{factor}{substep}
constexpr int n_q = {size["q"]}, n_qd = {size["qd"]}, n_u = {size["u"]}, n_L = {size["L"]}, steps = {robot.substeps};
V q[steps + 1][n_q], qd[steps + 1][n_qd], u[n_u], contact[3], L[n_L];
load(q_in, q[0], n_q); load(qd_in, qd[0], n_qd); load(u_in, u, n_u); load(contact_in, contact, 3);
const V x = q[0][0], y = q[0][1];
q[0][0] = q[0][1] = V(0.0f);
factor(q[0], L);
for (int k = 0; k < steps; ++k) substep(q[k], qd[k], u, contact, L, q[k + 1], qd[k + 1]);
"""


END = """
q[steps][0] += x; q[steps][1] += y;
store(q[steps], q_out, n_q); store(qd[steps], qd_out, n_qd);
"""

END_BACK = """
V q_bar[n_q], qd_bar[n_qd], u_bar[n_u] = {}, L_bar[n_L] = {}, q_to[n_q], qd_to[n_qd], u_to[n_u], L_to[n_L];
load(q_out_bar, q_bar, n_q); load(qd_out_bar, qd_bar, n_qd);
const V x_bar = q_bar[0], y_bar = q_bar[1];  // a step is the same everywhere
for (int k = steps - 1; k >= 0; --k) {
    substep_back(q[k], qd[k], u, contact, L, q_bar, qd_bar, q_to, qd_to, u_to, L_to);
    for (int i = 0; i < n_q; ++i) q_bar[i] = q_to[i];
    for (int i = 0; i < n_qd; ++i) qd_bar[i] = qd_to[i];
    for (int i = 0; i < n_u; ++i) u_bar[i] += u_to[i];
    for (int i = 0; i < n_L; ++i) L_bar[i] += L_to[i];
}
factor_back(q[0], L_bar, q_to);
for (int i = 2; i < n_q; ++i) q_bar[i] += q_to[i];
q_bar[0] = x_bar; q_bar[1] = y_bar;
store(q_bar, q_in_bar, n_q); store(qd_bar, qd_in_bar, n_qd); store(u_bar, u_in_bar, n_u);
"""

A = wp.array(dtype=float)


@cache
def forward_kernel(robot: Robot) -> wp.Kernel:
    """The kernel of a control step. Its arrays hold a row per robot; it is launched on ⌈count / LANES⌉ blocks."""

    @wp.func_native(_begin(robot) + END)
    def run(block: int, count: int, q_in: A, qd_in: A, u_in: A, contact_in: A, q_out: A, qd_out: A): ...

    def step(count: int, q_in: A, qd_in: A, u_in: A, contact_in: A, q_out: A, qd_out: A):
        run(wp.tid(), count, q_in, qd_in, u_in, contact_in, q_out, qd_out)

    return wp.kernel(step, enable_backward=False, module="unique")


@cache
def backward_kernel(robot: Robot) -> wp.Kernel:
    """The kernel of a control step's derivative: from gradients in q_out, qd_out to those in q_in, qd_in and u_in."""
    known = formulas(robot)
    back = c_function("substep_back", known.back(), ["q", "qd", "u", "contact", "L", "q_bar", "qd_bar"])
    back += c_function("factor_back", {"q_to": known.factor_back()}, ["q", "L_bar"])

    @wp.func_native(_begin(robot) + back + END_BACK)
    def run(
        block: int, count: int, q_in: A, qd_in: A, u_in: A, contact_in: A, q_out_bar: A, qd_out_bar: A,
        q_in_bar: A, qd_in_bar: A, u_in_bar: A,
    ): ...  # fmt: skip

    def step_back(
        count: int, q_in: A, qd_in: A, u_in: A, contact_in: A, q_out_bar: A, qd_out_bar: A,
        q_in_bar: A, qd_in_bar: A, u_in_bar: A,
    ):  # fmt: skip
        run(
            wp.tid(), count, q_in, qd_in, u_in, contact_in, q_out_bar, qd_out_bar, q_in_bar, qd_in_bar, u_in_bar
        )  # fmt: skip

    return wp.kernel(step_back, enable_backward=False, module="unique")
