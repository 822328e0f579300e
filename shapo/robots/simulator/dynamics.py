"""The laws of motion of a robot: a tree of bodies on hinges below a free torso, above level ground.

    H(q) q̈ = τ(q, q̇, u)      q̇ ← q̇ + Δt q̈,   q ← q + Δt q̇

The algorithms are Featherstone's: recursive Newton-Euler for τ, contacts included, and composite bodies for H. As in
DFlex and in Newton's solver, H is computed at the start of a control step and serves all its substeps, and the torso's
six entries of H, τ and q̈ belong to its twist (v_O, ω) about the world's origin. Its entries of q̇ are v_com and ω, with
v_com = v_O + ω × com. Vectors and matrices are numpy arrays of `Expression`s, in world axes unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapo.robots.simulator.expressions import Value, cos, sin, sqrt, where

EYE = np.eye(3).astype(object)


@dataclass(frozen=True)
class Body:
    """A rigid body, in a frame fixed to it whose origin is where its hinges meet. Arrays of floats, SI units."""

    parent: int  # index of the parent body; −1 for the torso, which is free
    place: NDArray  # (3,) position of its hinges, in the parent's frame
    turn: NDArray  # (3, 3) rotation from its frame to the parent's, at hinge angles 0
    axes: NDArray  # (k, 3) unit axes of its k hinges, each of which turns the axes after it
    mass: float
    com: NDArray  # (3,) centre of mass
    inertia: NDArray  # (3, 3) about the centre of mass
    capsules: list[tuple[NDArray, float]]  # ends (2, 3) and radius; both ends of a sphere are its centre

    @property
    def contacts(self) -> list[tuple[NDArray, float]]:
        """Centre (3,) and radius of each sphere with which the body touches the ground: the ends of its capsules."""
        found = []
        for (first, last), radius in self.capsules:
            found += [(first, radius), (last, radius)] if (first != last).any() else [(first, radius)]
        return found


@dataclass(frozen=True)
class Mechanism:
    """A robot: its bodies, parents first and the torso at index 0, and the constants of its n hinges, arrays (n,)."""

    bodies: tuple[Body, ...]
    lower: NDArray  # rad, the angle below which a joint limit pushes back
    upper: NDArray  # rad, the angle above which it does
    limit_stiffness: float  # N·m/rad
    damping: NDArray  # N·m·s/rad
    stiffness: NDArray  # N·m/rad, of the spring that pulls towards `rest`
    rest: NDArray  # rad
    armature: NDArray  # kg·m², added to the diagonal of H
    friction_gain: float  # k_f of contacts
    gravity: NDArray  # (3,) m/s²


@dataclass
class Pose:
    """Where a body is: the rotation from its frame to the world; origin, centre of mass and hinge axes in the world."""

    rotation: NDArray
    origin: NDArray
    com: NDArray
    axes: list[NDArray]
    dofs: list[int]  # indices of its hinges in q̇


def poses(mechanism: Mechanism, q: NDArray) -> list[Pose]:
    """Poses of all bodies at q (7 + n,): position and quaternion x y z w of the torso, angles of the hinges."""
    placed: list[Pose] = []
    for body in mechanism.bodies:
        if body.parent < 0:
            rotation, origin, axes, dofs, next_dof = from_quaternion(q[3:7]), q[:3], [], [], 6
        else:
            parent = placed[body.parent]
            rotation, axes = parent.rotation @ body.turn, []
            origin = parent.origin + parent.rotation @ body.place
            dofs = list(range(next_dof, next_dof + len(body.axes)))
            next_dof += len(body.axes)
            for axis, dof in zip(body.axes, dofs, strict=True):
                axes.append(rotation @ axis)
                rotation = rotation @ about(axis, q[dof + 1])
        placed.append(Pose(rotation, origin, origin + rotation @ body.com, axes, dofs))
    return placed


def limbs(mechanism: Mechanism, placed: list[Pose]) -> list[Value]:
    """The end points of all capsules in the world, one flat list: x, y, z of the first end, then of the second."""
    found = []
    for body, pose in zip(mechanism.bodies, placed, strict=True):
        found += [pose.origin + pose.rotation @ end for ends, _ in body.capsules for end in ends]
    return [value for point in found for value in point]


def forces(
    mechanism: Mechanism, placed: list[Pose], q: NDArray, qd: NDArray, torque: NDArray, contact: NDArray
) -> NDArray:
    """τ (6 + n,), the generalised forces of torques, gravity, velocities and contacts, by recursive Newton-Euler.

    Outwards from the torso, it finds how each body moves at q̈ = 0 and what force that takes. Back inwards, it subtracts
    from each joint's own torque what the hinge has to carry. qd: v_com, ω, joint velocities. contact: k_e, k_d, μ.
    """
    bodies = mechanism.bodies
    tau = np.empty(len(qd), dtype=object)
    spin, velocity, acceleration, turning = [], [], [], []  # ω; velocity and acceleration of the origin; ω̇
    force, moment = [], []  # that the motion takes besides ground forces; moment about its origin
    for body, pose in zip(bodies, placed, strict=True):
        if body.parent < 0:
            omega, alpha = qd[3:6], np.zeros(3).astype(object)
            v = qd[:3] - np.cross(omega, pose.com - pose.origin)
            a = np.cross(omega, v)  # the twist about the world's origin is constant at q̈ = 0
        else:
            above, parent = body.parent, placed[body.parent]
            omega, alpha, arm = spin[above], turning[above], pose.origin - parent.origin
            swept = np.cross(omega, arm)
            v = velocity[above] + swept
            a = acceleration[above] + np.cross(alpha, arm) + np.cross(omega, swept)
            for axis, dof in zip(pose.axes, pose.dofs, strict=True):
                rate = axis * qd[dof]
                alpha = alpha + np.cross(omega, rate)
                omega = omega + rate
        arm = pose.com - pose.origin
        swept = np.cross(omega, arm)
        v_com, a_com = v + swept, a + np.cross(alpha, arm) + np.cross(omega, swept)
        in_body = pose.rotation.T @ omega
        momentum = pose.rotation @ (body.inertia @ in_body)
        euler = pose.rotation @ (body.inertia @ (pose.rotation.T @ alpha)) + np.cross(omega, momentum)
        f = body.mass * (a_com - mechanism.gravity)
        m = euler + np.cross(arm, f)
        for point, radius in body.contacts:
            at = pose.rotation @ point
            lowest = at - np.array([0.0, 0.0, radius], dtype=object)
            height, sliding = pose.origin[2] + lowest[2], v_com + np.cross(omega, lowest - arm)
            push = ground_force(height, sliding, contact, mechanism.friction_gain)
            f, m = f - push, m - np.cross(lowest, push)
        found = (spin, omega), (turning, alpha), (velocity, v), (acceleration, a), (force, f), (moment, m)
        for values, value in found:
            values.append(value)
    for index in reversed(range(1, len(bodies))):
        body, pose = bodies[index], placed[index]
        for axis, dof in zip(pose.axes, pose.dofs, strict=True):
            j, angle = dof - 6, q[dof + 1]
            beyond = where(
                angle < mechanism.lower[j], mechanism.lower[j] - angle,
                where(angle > mechanism.upper[j], mechanism.upper[j] - angle, 0.0),
            )  # fmt: skip
            passive = (
                mechanism.limit_stiffness * beyond - mechanism.damping[j] * qd[dof]
                + mechanism.stiffness[j] * (mechanism.rest[j] - angle)
            )  # fmt: skip
            tau[dof] = torque[j] + passive - axis @ moment[index]
        above = body.parent
        force[above] = force[above] + force[index]
        arm = pose.origin - placed[above].origin
        moment[above] = moment[above] + moment[index] + np.cross(arm, force[index])
    tau[:3] = -force[0]
    tau[3:6] = -(moment[0] + np.cross(placed[0].origin, force[0]))
    return tau


def ground_force(height: Value, velocity: NDArray, contact: NDArray, friction_gain: float) -> NDArray:
    """The force (3,) of the ground z = 0 on a sphere, from the height and velocity of its lowest point.

    f_n = d (k_e + k_d max(−v_z, 0)) at depth d;  f_t = −k_f v_t, of at most μ k_e d

    The law is DFlex's (`eval_rigid_contacts_art` in DiffRL's dflex/sim.py), as in SHAC and SHAC-ASAM. Newton's damping
    jumps at touch-down, unseen by derivatives: a policy's gradient over 32 steps would be wrong, even in sign.
    """
    stiffness, damping, friction = contact
    depth = where(height < 0.0, -height, 0.0)
    spring = stiffness * depth
    damper = damping * depth * where(velocity[2] < 0.0, -velocity[2], 0.0)
    slip = velocity[0] * velocity[0] + velocity[1] * velocity[1]
    most = friction * spring
    slides = most * most < slip * (friction_gain * friction_gain)  # no root at rest: its slope is infinite
    drag = where(slides, most / sqrt(where(slides, slip, 1.0)), friction_gain)
    drag = where(height < 0.0, drag, 0.0)
    return np.array([-drag * velocity[0], -drag * velocity[1], spring + damper], dtype=object)


def mass_matrix(mechanism: Mechanism, placed: list[Pose]) -> NDArray:
    """H (6 + n, 6 + n), symmetric, by composite bodies. Entries that are always 0 are floats, not `Expression`s."""
    size = 6 + len(mechanism.armature)
    mass, first, second = [], [], []  # of a body and all it carries: m, Σ m c, Σ (I + m (|c|² − c cᵀ))
    for body, pose in zip(mechanism.bodies, placed, strict=True):
        c, inertia = pose.com, pose.rotation @ body.inertia @ pose.rotation.T
        mass.append(body.mass)
        first.append(body.mass * c)
        second.append(inertia + body.mass * ((c @ c) * EYE - np.outer(c, c)))
    for index in reversed(range(1, len(placed))):
        above = mechanism.bodies[index].parent
        for values in (mass, first, second):
            values[above] = values[above] + values[index]

    H = np.zeros((size, size)).astype(object)
    H[:3, :3], H[3:6, 3:6] = mass[0] * EYE, second[0]
    H[3:6, :3] = np.array([np.cross(first[0], axis) for axis in EYE], dtype=object).T
    H[:3, 3:6] = H[3:6, :3].T
    for index, pose in enumerate(placed):
        for axis, dof in zip(pose.axes, pose.dofs, strict=True):
            v = np.cross(pose.origin, axis)  # (v, axis) is the hinge's twist about the world's origin
            f = mass[index] * v + np.cross(axis, first[index])  # momentum of what turns
            n = second[index] @ axis + np.cross(first[index], v)  # its angular momentum about the origin
            H[dof, :3], H[dof, 3:6] = f, n
            above = index
            while above > 0:
                for other, column in zip(placed[above].axes, placed[above].dofs, strict=True):
                    if column <= dof:
                        H[dof, column] = other @ n + np.cross(placed[above].origin, other) @ f
                above = mechanism.bodies[above].parent
            H[dof, dof] = H[dof, dof] + mechanism.armature[dof - 6]
            H[: dof + 1, dof] = H[dof, : dof + 1]
    return H


def factor(H: NDArray) -> NDArray:
    """Lower triangular L of H = LᵀL, with 1/L_ii stored for L_ii. Working from limbs to torso, it keeps zeros of H."""
    L = H.copy()
    for k in reversed(range(len(L))):
        L[k, k] = 1.0 / sqrt(L[k, k])
        L[k, :k] = L[k, :k] * L[k, k]
        for i in range(k):
            L[i, : i + 1] = L[i, : i + 1] - L[k, i] * L[k, : i + 1]
        L[:k, k] = 0.0
    return L


def solve(L: NDArray, b: NDArray) -> NDArray:
    """The x that solves LᵀL x = b, with L from `factor`."""
    x = b.copy()
    for k in reversed(range(len(x))):
        x[k] = x[k] * L[k, k]
        x[:k] = x[:k] - L[k, :k] * x[k]
    for k in range(len(x)):
        x[k] = (x[k] - L[k, :k] @ x[:k]) * L[k, k] if k else x[k] * L[k, k]
    return x


def integrate(
    mechanism: Mechanism, torso: Pose, q: NDArray, qd: NDArray, qdd: NDArray, dt: float
) -> tuple[NDArray, NDArray]:
    """q, q̇ after dt by semi-implicit Euler: q moves at the new q̇. torso: its pose at q."""
    omega, v = qd[3:6], qd[:3]
    a = qdd[:3] + np.cross(qdd[3:6], torso.com) + np.cross(omega, v)  # acceleration of the torso's com
    qd_new = qd + dt * np.concatenate([a, qdd[3:]])
    v, omega, r = qd_new[:3], qd_new[3:6], q[3:7]
    spun = r + (0.5 * dt) * np.append(r[3] * omega + np.cross(omega, r[:3]), -(omega @ r[:3]))
    spun = spun * (1.0 / sqrt(spun @ spun))
    origin = torso.com + dt * v - from_quaternion(spun) @ mechanism.bodies[0].com
    return np.concatenate([origin, spun, q[7:] + dt * qd_new[6:]]), qd_new


def from_quaternion(r: NDArray) -> NDArray:
    """The rotation (3, 3) of a unit quaternion x y z w."""
    v, w = r[:3], r[3]
    return (2.0 * w * w - 1.0) * EYE + 2.0 * np.outer(v, v) + 2.0 * w * skew(v)


def about(axis: NDArray, angle: Value) -> NDArray:
    """The rotation (3, 3) by an angle about a constant unit axis (Rodrigues)."""
    K = skew(axis)
    return EYE + sin(angle) * K + (1.0 - cos(angle)) * (K @ K)


def skew(v: NDArray) -> NDArray:
    """The matrix of v × ·."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=object)
