"""The laws of motion of a robot: bodies on hinges below a free torso, above level ground. Featherstone's algorithms.

    H(q) q̈ = τ(q, q̇, u) + contacts      q̇ ← q̇ + Δt q̈,   q ← q + Δt q̇

τ by Newton and Euler's recursion, H by composite bodies. As in DFlex and in Newton's solver, H is that of a control
step's start for all its substeps, and the torso's six accelerations are those of a twist about the world's origin.
Everything is written on `Expression`s; vectors and matrices are numpy arrays of them, in world axes unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapo.robots.simulator.expressions import Value, cos, sin, sqrt, where

EYE = np.eye(3).astype(object)


@dataclass(frozen=True)
class Body:
    """A rigid body in its own frame, whose origin is its last hinge's. Arrays of floats, SI units."""

    parent: int  # index; −1: the torso itself, which is free
    place: NDArray  # (3,) of its hinges, in the parent's frame
    turn: NDArray  # (3, 3) rotation from the hinges' frame at rest to the parent's
    axes: NDArray  # (k, 3) hinges, each turned by those before it
    mass: float
    com: NDArray  # (3,) centre of mass
    inertia: NDArray  # (3, 3) about it
    capsules: list[tuple[NDArray, float]]  # ends (2, 3) and radius; both ends of a sphere are its centre

    @property
    def contacts(self) -> list[tuple[NDArray, float]]:
        """Centre (3,) and radius of the spheres with which it touches the ground: both ends of every capsule."""
        found = []
        for (first, last), radius in self.capsules:
            found += [(first, radius), (last, radius)] if (first != last).any() else [(first, radius)]
        return found


@dataclass(frozen=True)
class Mechanism:
    """A robot: its bodies, parents first, the torso at 0; and of its n hinges, arrays (n,)."""

    bodies: tuple[Body, ...]
    lower: NDArray  # rad, where joint limits begin to push back
    upper: NDArray
    limit_stiffness: float  # N·m/rad
    damping: NDArray  # N·m·s/rad
    stiffness: NDArray  # N·m/rad, towards `rest`
    rest: NDArray
    armature: NDArray  # kg·m²
    friction_gain: float  # k_f of contacts
    gravity: NDArray  # (3,)


@dataclass
class Pose:
    """Where a body is: rotation to the world, origin, centre of mass, axes of its hinges."""

    rotation: NDArray
    origin: NDArray
    com: NDArray
    axes: list[NDArray]
    dofs: list[int]  # columns of q̇


def poses(mechanism: Mechanism, q: NDArray) -> list[Pose]:
    """Of all bodies at q (7 + n): position, quaternion x y z w, angles."""
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
    """Ends (x, y, z) of all capsules in world axes, two for each."""
    found = []
    for body, pose in zip(mechanism.bodies, placed, strict=True):
        found += [pose.origin + pose.rotation @ end for ends, _ in body.capsules for end in ends]
    return [value for point in found for value in point]


def forces(
    mechanism: Mechanism, placed: list[Pose], q: NDArray, qd: NDArray, torque: NDArray, contact: NDArray
) -> NDArray:
    """τ (6 + n,): the generalised forces at q̈ = 0; the torso's six are about the world's origin.

    qd: velocity of the torso's centre of mass, angular velocity, joint velocities. contact: k_e, k_d, μ.
    """
    bodies = mechanism.bodies
    tau = np.empty(len(qd), dtype=object)
    spin, velocity, acceleration, turning = [], [], [], []  # ω; ṗ, p̈ of origins; ω̇
    force, moment = [], []  # on each body and all it carries, the moment about its origin
    for body, pose in zip(bodies, placed, strict=True):
        if body.parent < 0:
            omega, alpha = qd[3:6], np.zeros(3).astype(object)
            v = qd[:3] - np.cross(omega, pose.com - pose.origin)
            a = np.cross(omega, v)  # of a constant twist
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
    """The force (3,) of the ground z = 0 on a sphere, by height and velocity of its lowest point.

    f_n = d (k_e + k_d max(−v_z, 0)) at depth d;  f_t = −k_f v_t, of at most μ k_e d

    DFlex's, on which SHAC and SHAC-ASAM were published (`eval_rigid_contacts_art` of DiffRL's dflex/sim.py). Newton's
    damping jumps where a foot touches. A derivative does not see a jump: over a window of 32 steps, a policy's gradient
    would be wrong, even in sign.
    """
    stiffness, damping, friction = contact
    depth = where(height < 0.0, -height, 0.0)
    spring = stiffness * depth
    damper = damping * depth * where(velocity[2] < 0.0, -velocity[2], 0.0)
    slip = velocity[0] * velocity[0] + velocity[1] * velocity[1]
    most = friction * spring
    slides = most * most < slip * (friction_gain * friction_gain)
    # No root where there is little slip: its derivative would be infinite at rest.
    drag = where(slides, most / sqrt(where(slides, slip, 1.0)), friction_gain)
    drag = where(height < 0.0, drag, 0.0)
    return np.array([-drag * velocity[0], -drag * velocity[1], spring + damper], dtype=object)


def mass_matrix(mechanism: Mechanism, placed: list[Pose]) -> NDArray:
    """H (6 + n, 6 + n), symmetric: inertia of composite bodies, about the world's origin. Its zeros are numbers."""
    size = 6 + len(mechanism.armature)
    mass, first, second = [], [], []  # of each body and all it carries: m, Σ m c, Σ (I + m (|c|² − c cᵀ))
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
            v = np.cross(pose.origin, axis)  # at the world's origin, of a turn about the hinge
            f = mass[index] * v + np.cross(axis, first[index])
            n = second[index] @ axis + np.cross(first[index], v)
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
    """L of H = LᵀL, lower triangular, 1/L_ii in the place of L_ii: from limbs to torso, so that zeros stay zeros."""
    L = H.copy()
    for k in reversed(range(len(L))):
        L[k, k] = 1.0 / sqrt(L[k, k])
        L[k, :k] = L[k, :k] * L[k, k]
        for i in range(k):
            L[i, : i + 1] = L[i, : i + 1] - L[k, i] * L[k, : i + 1]
        L[:k, k] = 0.0
    return L


def solve(L: NDArray, b: NDArray) -> NDArray:
    """x of LᵀL x = b."""
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
    """q, q̇ after dt, velocities first."""
    omega, v = qd[3:6], qd[:3]
    a = qdd[:3] + np.cross(qdd[3:6], torso.com) + np.cross(omega, v)  # of the torso's centre of mass
    qd_new = qd + dt * np.concatenate([a, qdd[3:]])
    v, omega, r = qd_new[:3], qd_new[3:6], q[3:7]
    spun = r + (0.5 * dt) * np.append(r[3] * omega + np.cross(omega, r[:3]), -(omega @ r[:3]))
    spun = spun * (1.0 / sqrt(spun @ spun))
    origin = torso.com + dt * v - from_quaternion(spun) @ mechanism.bodies[0].com
    return np.concatenate([origin, spun, q[7:] + dt * qd_new[6:]]), qd_new


def from_quaternion(r: NDArray) -> NDArray:
    """The rotation (3, 3) of x y z w, of length 1."""
    v, w = r[:3], r[3]
    return (2.0 * w * w - 1.0) * EYE + 2.0 * np.outer(v, v) + 2.0 * w * skew(v)


def about(axis: NDArray, angle: Value) -> NDArray:
    """The rotation (3, 3) by an angle about a fixed axis (Rodrigues)."""
    K = skew(axis)
    return EYE + sin(angle) * K + (1.0 - cos(angle)) * (K @ K)


def skew(v: NDArray) -> NDArray:
    """The matrix of v × ·."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=object)
