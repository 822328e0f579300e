"""Newton's `SolverFeatherstone`, which takes the same control steps as `simulator.kernels`, for timing and for tests.

Two of its kernels are replaced: the ground is DFlex's, as in `dynamics.ground_force`, and one gradient is corrected.
In Newton 1.8.0 the kernel `eval_rigid_tau` overwrites the external force on a body with the same force in another
frame. Warp's backward pass then reads the overwritten one, with the wrong sign: an error of 6 % over eight control
steps. Nothing else reads the overwritten value, so the corrected kernel is the installed one without that line.
"""

import inspect
import linecache
import re
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from newton._src.solvers.featherstone import kernels, solver_featherstone
from torch import Tensor

from shapo.robots.simulator import CONTROL_DT, Robot
from shapo.robots.simulator.mechanism import builder, capsules, newton, wp

OVERWRITES = "        body_f_ext[child] = f_ext\n"


def corrected_tau() -> wp.Kernel:
    """`eval_rigid_tau` without the line that overwrites."""
    source = inspect.getsource(kernels.eval_rigid_tau.func)
    assert source.count(OVERWRITES) == 1
    source = re.sub("def eval_rigid_tau", "def eval_rigid_tau_corrected", source.replace(OVERWRITES, ""))
    filename = "<eval_rigid_tau without the overwritten force>"
    # Warp reads the source of a kernel to translate it; this one has no file.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    names = vars(kernels) | {"__name__": __name__}
    exec(compile(source, filename, "exec"), names)
    return names["eval_rigid_tau_corrected"]


@wp.kernel
def ground_contact(
    body_q: wp.array[wp.transform], body_qd: wp.array[wp.spatial_vector], body_com: wp.array[wp.vec3],
    k_e: wp.array[float], k_d: wp.array[float], k_f: wp.array[float], adhesion: wp.array[float],
    mu: wp.array[float], shape_body: wp.array[int], count: wp.array[int],
    point: wp.array[wp.vec3], ground_point: wp.array[wp.vec3], ground_velocity: wp.array[wp.vec3],
    normal: wp.array[wp.vec3], shape: wp.array[int], ground_shape: wp.array[int],
    radius: wp.array[float], ground_radius: wp.array[float],
    stiffness: wp.array[float], damping: wp.array[float], friction: wp.array[float], in_world: bool,
    body_f: wp.array[wp.spatial_vector],
):  # fmt: skip
    """DFlex's ground with the signature of Newton's `eval_body_contact`, whose own damping jumps at contact."""
    contact = wp.tid()
    material, up = shape[contact], wp.vec3(0.0, 0.0, 1.0)
    body = shape_body[material]
    lowest = wp.transform_point(body_q[body], point[contact]) - radius[contact] * up
    depth = -lowest[2]
    if depth <= 0.0:
        return
    arm = lowest - wp.transform_point(body_q[body], body_com[body])
    velocity = wp.spatial_top(body_qd[body]) + wp.cross(wp.spatial_bottom(body_qd[body]), arm)
    slip = velocity - velocity[2] * up
    spring = k_e[material] * depth
    damper = k_d[material] * depth * wp.max(-velocity[2], 0.0)
    drag = k_f[material]
    if wp.dot(slip, slip) * drag * drag > mu[material] * mu[material] * spring * spring:
        drag = mu[material] * spring / wp.length(slip)
    force = (spring + damper) * up - drag * slip
    wp.atomic_add(body_f, body, wp.spatial_vector(force, wp.cross(arm, force)))


def recorded(function: Callable[[], None]) -> wp.Graph:
    """The kernels that `function` launches, as a graph that can be launched again."""
    with wp.ScopedCapture(device="cpu") as capture:
        function()
    return capture.graph


class NewtonSolver:
    """N robots on Newton's solver, with a control step and its derivative recorded as graphs.

    corrected: False keeps Newton's gradient as released.
    """

    def __init__(self, robot: Robot, num_envs: int, corrected: bool = True):
        self.robot, self.num_envs = robot, num_envs
        replaced = {
            "eval_rigid_tau": corrected_tau() if corrected else kernels.eval_rigid_tau,
            "eval_body_contact": ground_contact,
        }
        self._model = self._robots()
        self._solver = newton.solvers.SolverFeatherstone(
            self._model, angular_damping=0.0, update_mass_matrix_interval=robot.substeps
        )
        self._contacts = self._every_capsule_end()
        self._states = [self._model.state() for _ in range(robot.substeps + 1)]
        self._control = self._model.control()
        self._control.joint_f = wp.zeros_like(self._model.joint_qd, requires_grad=True)
        first, last = self._states[0], self._states[-1]
        self._inputs, self._outputs = (
            (first.joint_q, first.joint_qd, self._control.joint_f), (last.joint_q, last.joint_qd)
        )  # fmt: skip
        self._seeds = [wp.zeros_like(array, requires_grad=False) for array in self._outputs]
        with patch.multiple(solver_featherstone, **replaced):
            self._record()

    def forward(self, q: Tensor, qd: Tensor, torque: Tensor) -> list[Tensor]:
        """q and qd after a control step."""
        inputs = q, qd, torch.nn.functional.pad(torque, (6, 0))  # the torso has no motor
        for array, value in zip(self._inputs, inputs, strict=True):
            self._rows(array).copy_(value)
        wp.capture_launch(self._forward_graph)
        return [self._rows(array).clone() for array in self._outputs]

    def backward(self, *seeds: Tensor) -> list[Tensor]:
        """Gradients of Σ seed · output in q, qd and torque, for the last step, which is run again."""
        for array, seed in zip(self._seeds, seeds, strict=True):
            self._rows(array).copy_(seed)
        wp.capture_launch(self._backward_graph)
        q, qd, force = (self._rows(array.grad).clone() for array in self._inputs)
        return [q, qd, force[:, 6:]]

    def _record(self) -> None:
        tape = wp.Tape()
        with tape:
            self._run()

        def back() -> None:
            self._run()
            tape.zero()
            tape.backward(grads=dict(zip(self._outputs, self._seeds, strict=True)))

        back()
        self._forward_graph, self._backward_graph = map(recorded, (self._run, back))

    def _run(self) -> None:
        self._solver._step = 0  # the mass matrix is renewed at the first substep of every control step
        for before, after in pairwise(self._states):
            self._solver.step(before, after, self._control, self._contacts, CONTROL_DT / self.robot.substeps)

    def _robots(self) -> newton.Model:
        worlds, one, robot = newton.ModelBuilder(up_axis=newton.Axis.Z), builder(self.robot), self.robot
        for _ in range(self.num_envs):
            worlds.add_world(one)
        model = worlds.finalize(device="cpu")
        model.requires_grad = True  # for the states and the solver's arrays
        dofs = {
            "joint_armature": robot.armature, "joint_damping": robot.joint_damping,
            "joint_limit_ke": robot.limit_stiffness, "joint_limit_kd": 0.0,
            "joint_target_ke": 0.0, "joint_target_kd": 0.0,
        }  # fmt: skip
        for name, value in dofs.items():
            if value is not None:
                self._rows(getattr(model, name))[:, 6:] = value
        self._rows(model.joint_damping)[:, 6:] += robot.limit_damping  # as in DFlex
        materials = {
            "ke": robot.stiffness, "kd": robot.damping, "mu": robot.friction, "kf": robot.friction_gain, "ka": 0.0
        }  # fmt: skip
        for name, value in materials.items():
            getattr(model, f"shape_material_{name}").fill_(value)
        return model

    def _rows(self, array: wp.array) -> Tensor:
        return wp.to_torch(array, requires_grad=False).view(self.num_envs, -1)

    def _every_capsule_end(self) -> newton.Contacts:
        """A static set of contacts, since Newton's collision detection is not differentiable."""
        found = []
        for shape, _, ends, radius in capsules(self._model):
            found += [(shape, end, radius) for end in np.unique(ends, axis=0)]  # a sphere has one
        shapes, points, radii = zip(*found, strict=True)
        contacts = newton.Contacts(len(found), 0, requires_grad=False, device="cpu")
        contacts.rigid_contact_shape0.assign(np.array(shapes, np.int32))
        contacts.rigid_contact_shape1.fill_(-1)  # the ground
        contacts.rigid_contact_point0.assign(np.array(points, np.float32))
        contacts.rigid_contact_point1.zero_()
        contacts.rigid_contact_normal.fill_(wp.vec3(0.0, 0.0, -1.0))  # from the robot to the ground
        contacts.rigid_contact_margin0.assign(np.array(radii, np.float32))
        contacts.rigid_contact_margin1.zero_()
        contacts.rigid_contact_count.fill_(len(found))
        return contacts
