"""A batch of robots on Newton's Featherstone solver, one control step at a time, differentiable by PyTorch.

A control step is `substeps` solver steps, recorded once as two CPU graphs: one runs them, one runs them again and
then backwards. A backward pass therefore needs nothing but the state and the torque a step began with, and memory
does not grow with the horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

import shapo.differentiable.contact  # these two take their places in the solver
import shapo.differentiable.mass_matrix  # noqa: F401
from shapo.differentiable.gradient_fix import newton, wp
from shapo.differentiable.robots import CONTROL_DT, Robot

DEVICE = "cpu"
CONTACT_PARAMETERS = {  # of `Simulator.set_contact`: Newton's name, whether it must be above 0
    "stiffness": ("shape_material_ke", True),
    "damping": ("shape_material_kd", False),
    "friction": ("shape_material_mu", False),
}


class Simulator:
    """N copies of a robot above the ground z = 0 that do not see each other.

    q0: (7 + n,) the robot's start, standing. gradients: False saves the memory and the time to record them.
    dropped_gradients: how often the backward pass of an environment's step was not finite, and counted as zero.
    """

    def __init__(self, robot: Robot, num_envs: int, gradients: bool = True):
        self.robot, self.num_envs, self.gradients = robot, num_envs, gradients
        self.model = _model(robot, num_envs, gradients)
        self._solver = newton.solvers.SolverFeatherstone(
            self.model, angular_damping=0.0, update_mass_matrix_interval=robot.substeps
        )
        self._contacts = _contacts(self.model)
        self._contact_version = self.dropped_gradients = 0
        self.set_contact(robot.stiffness, robot.damping, robot.friction)
        self.model.shape_material_kf.fill_(robot.friction_gain)
        self.model.shape_material_ka.fill_(0.0)
        self.q0 = torch.tensor(
            [0, 0, robot.start_height, 0, 0, 0, 1, *robot.start_joints], dtype=torch.float32
        )
        self._record()

    def set_contact(self, stiffness=None, damping=None, friction=None) -> None:
        """Contact stiffness k_e (N/m), damping k_d (N·s/m²), friction μ: each a number or (N,); None leaves it.

        Raises ValueError for what is not finite, negative, or a stiffness of 0.
        """
        given = {"stiffness": stiffness, "damping": damping, "friction": friction}
        arrays = {}
        for field, value in given.items():
            if value is None:
                continue
            (name, positive), value = CONTACT_PARAMETERS[field], np.asarray(value, np.float32)
            if value.shape not in ((), (self.num_envs,)):
                raise ValueError(
                    f"{field} must be a number or one per environment, ({self.num_envs},); got {value.shape}"
                )
            if not np.isfinite(value).all() or (value <= 0 if positive else value < 0).any():
                raise ValueError(
                    f"{field} must be finite and {'above' if positive else 'at least'} 0; got {value}"
                )
            arrays[name] = value
        for name, value in arrays.items():
            (material,) = _views(getattr(self.model, name), rows=self.num_envs)
            material.copy_(torch.from_numpy(value.reshape(-1, 1)))
        self._contact_version += 1

    def step(self, q: Tensor, qd: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
        """q, qd after a control step under joint torques (N, n), N·m; differentiable in all three.

        Raises ValueError for another shape.
        """
        for name, value, view in zip(("q", "qd", "torque"), (q, qd, torque), self._inputs, strict=True):
            if value.shape != view.shape:
                raise ValueError(f"{name} must have shape {tuple(view.shape)}; got {tuple(value.shape)}")
        return _Step.apply(q, qd, torque, self)

    def skeleton(self, q: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The robots at q (N, 7 + n), to be drawn: ends (N, k, 2, 3) of their capsules in metres, and radii (k,)."""
        state = self.model.state(requires_grad=False)
        _views(state.joint_q, rows=self.num_envs)[0].copy_(q.detach())
        newton.eval_fk(self.model, state.joint_q, state.joint_qd, state)
        bodies, ends, radii = state.body_q.numpy(), [], []
        for body, _, points, radius in _capsules(self.model):
            ends.append(
                [wp.transform_point(wp.transform(*bodies[body]), point) for point in (points[0], points[-1])]
            )
            radii.append(radius)
        shape = self.num_envs, -1, 2, 3
        return np.array(ends, np.float32).reshape(shape), np.array(radii).reshape(self.num_envs, -1)[0]

    def _record(self) -> None:
        """Runs a control step, which compiles and allocates, then records it and its backward pass."""
        count = self.robot.substeps
        if self.gradients:
            self._states = [self.model.state() for _ in range(count + 1)]
        else:  # nobody looks back
            pair = self.model.state(requires_grad=False), self.model.state(requires_grad=False)
            self._states = [pair[index % 2] for index in range(count + 1)]
        first, last = self._states[0], self._states[-1]
        self._control = self.model.control()
        self._control.joint_f = wp.zeros_like(self.model.joint_qd, requires_grad=self.gradients)
        self._run()
        with wp.ScopedCapture(device=DEVICE) as capture:
            self._run()
        self._forward_graph = capture.graph
        q, qd, force = _views(first.joint_q, first.joint_qd, self._control.joint_f, rows=self.num_envs)
        self._inputs = q, qd, force[:, 6:]  # the torso has no motor
        self._outputs = _views(last.joint_q, last.joint_qd, rows=self.num_envs)
        if self.gradients:
            self._record_backward(first, last)

    def _record_backward(self, first, last) -> None:
        seeds = [wp.zeros_like(array, requires_grad=False) for array in (last.joint_q, last.joint_qd)]
        self._tape = wp.Tape()
        with self._tape:
            self._run()

        def backward() -> None:
            self._run()
            self._tape.zero()
            self._tape.backward(grads=dict(zip((last.joint_q, last.joint_qd), seeds, strict=True)))

        backward()
        with wp.ScopedCapture(device=DEVICE) as capture:
            backward()
        self._backward_graph = capture.graph
        self._seeds = _views(*seeds, rows=self.num_envs)
        leaves = first.joint_q, first.joint_qd, self._control.joint_f
        q, qd, force = _views(*(array.grad for array in leaves), rows=self.num_envs)
        self._gradients = q, qd, force[:, 6:]

    def _run(self) -> None:
        self._solver._step = (
            0  # so that the mass matrix is renewed at the first substep of every control step
        )
        for before, after in zip(self._states, self._states[1:], strict=False):
            self._solver.step(before, after, self._control, self._contacts, CONTROL_DT / self.robot.substeps)

    def _load(self, *inputs: Tensor) -> None:
        for view, value in zip(self._inputs, inputs, strict=True):
            view.copy_(value)
        # The solver sums moments about the world's origin, in single precision: the mass matrix loses digits with the
        # square of the distance, a Humanoid's its definiteness at 70 m. Level ground is the same everywhere, so a
        # step may as well be taken at x = y = 0.
        if self.robot.recentred:
            self._inputs[0][:, :2] = 0.0

    def _forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self._load(*inputs)
        wp.capture_launch(self._forward_graph)
        q, qd = (view.clone() for view in self._outputs)
        if self.robot.recentred:
            q[:, :2] += inputs[0][:, :2]
        return q, qd

    def _backward(self, inputs: tuple[Tensor, ...], seeds: tuple[Tensor, ...]) -> list[Tensor]:
        finite = torch.stack([torch.isfinite(seed).all(1) for seed in seeds]).all(0)
        self._load(*inputs)
        for view, seed in zip(self._seeds, seeds, strict=True):
            view.copy_(torch.where(finite[:, None], seed, 0.0))
        wp.capture_launch(self._backward_graph)
        finite &= torch.stack([torch.isfinite(gradient).all(1) for gradient in self._gradients]).all(0)
        self.dropped_gradients += int((~finite).sum())
        return [torch.where(finite[:, None], gradient, 0.0) for gradient in self._gradients]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, qd: Tensor, torque: Tensor, simulator: Simulator):
        ctx.save_for_backward(q, qd, torque)
        ctx.simulator, ctx.version = simulator, simulator._contact_version
        return simulator._forward(q, qd, torque)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *seeds: Tensor):
        if not ctx.simulator.gradients:
            raise RuntimeError("this simulator was made with gradients=False")
        if ctx.version != ctx.simulator._contact_version:
            raise RuntimeError(
                "contact parameters were set between a step and its backward pass, which runs it again"
            )
        return *ctx.simulator._backward(ctx.saved_tensors, seeds), None


def _views(*arrays: wp.array, rows: int) -> list[Tensor]:
    """The arrays' memory as tensors, a row per environment."""
    return [wp.to_torch(array, requires_grad=False).view(rows, -1) for array in arrays]


def _model(robot: Robot, num_envs: int, gradients: bool) -> newton.Model:
    builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
    one = _articulation(robot)
    for _ in range(num_envs):
        builder.add_world(one)
    model = builder.finalize(device=DEVICE)
    model.requires_grad = gradients  # of states and the solver's arrays; nobody asks for the model's own
    dofs = {
        "joint_armature": robot.armature, "joint_damping": robot.joint_damping,
        "joint_limit_ke": robot.limit_stiffness, "joint_limit_kd": 0.0,
        "joint_target_ke": 0.0, "joint_target_kd": 0.0,
    }  # fmt: skip
    for name, value in dofs.items():
        if value is not None:
            _views(getattr(model, name), rows=num_envs)[0][:, 6:] = value
    # DFlex damps a joint by its limits' k_d wherever it is, Newton only beyond them: another jump.
    _views(model.joint_damping, rows=num_envs)[0][:, 6:] += robot.limit_damping
    return model


def _articulation(robot: Robot) -> newton.ModelBuilder:
    """One robot. Newton's files bring densities of their own, which a builder's defaults do not replace."""
    tree = ElementTree.parse(Path(newton.__file__).parent / "examples" / "assets" / robot.asset)
    for geom in tree.iter("geom"):
        geom.set("density", f"{robot.density:g}")
    names = tuple(
        joint.get("name") for joint in tree.iter("joint") if joint.get("name") not in (None, "root")
    )
    if names != robot.joints:
        raise ValueError(
            f"{robot.asset} has the joints {names}, not those of the robot's actuators: {robot.joints}"
        )
    builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
    builder.add_mjcf(
        ElementTree.tostring(tree.getroot(), encoding="unicode"),
        ignore_names=["floor"], enable_self_collisions=False, parse_sites=False,
    )  # fmt: skip
    return builder


def _capsules(model: newton.Model) -> Iterator[tuple[int, int, list[wp.vec3], float]]:
    """(body, shape, points on its axis, radius) of every shape of the robots; the axis of a sphere is a point."""
    scales, transforms = model.shape_scale.numpy(), model.shape_transform.numpy()
    for shape, (kind, body) in enumerate(
        zip(model.shape_type.numpy(), model.shape_body.numpy(), strict=True)
    ):
        if body < 0:
            continue
        if kind not in (newton.GeoType.SPHERE, newton.GeoType.CAPSULE):
            raise ValueError(f"a robot is made of spheres and capsules; got {newton.GeoType(kind)}")
        radius, half_length = map(float, scales[shape][:2])
        along = (0.0,) if kind == newton.GeoType.SPHERE else (-half_length, half_length)
        placed = wp.transform(*transforms[shape])
        yield body, shape, [wp.transform_point(placed, wp.vec3(0.0, 0.0, z)) for z in along], radius


def _contacts(model: newton.Model) -> newton.Contacts:
    """A contact for every sphere and for both ends of every capsule, against the ground, whether they touch or not.

    Newton's collision detection is not differentiable; with a static set, the depth of each contact is.
    """
    points, shapes, radii = [], [], []
    for _, shape, ends, radius in _capsules(model):
        points += ends
        shapes += [shape] * len(ends)
        radii += [radius] * len(ends)
    contacts = newton.Contacts(len(points), 0, requires_grad=False, device=DEVICE)
    contacts.rigid_contact_shape0.assign(np.array(shapes, np.int32))
    contacts.rigid_contact_shape1.fill_(-1)  # the ground
    contacts.rigid_contact_point0.assign(np.array(points, np.float32))
    contacts.rigid_contact_point1.zero_()
    contacts.rigid_contact_normal.fill_(wp.vec3(0.0, 0.0, -1.0))  # from the robot to the ground
    contacts.rigid_contact_margin0.assign(np.array(radii, np.float32))
    contacts.rigid_contact_margin1.zero_()
    contacts.rigid_contact_count.fill_(len(points))
    return contacts
