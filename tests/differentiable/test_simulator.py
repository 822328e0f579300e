"""The differentiable simulator: against finite differences, against MuJoCo's mass matrix, against common sense."""

import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
import torch
from newton._src.solvers.featherstone import kernels, solver_featherstone
from newton._src.solvers.semi_implicit import kernels_contact
from scipy.spatial.transform import Rotation

from shapo.differentiable import gradient_fix
from shapo.differentiable.gradient_check import gradient_check, relative_error, rolled_out
from shapo.differentiable.gradient_fix import newton, wp
from shapo.differentiable.robots import CONTROL_DT, ROBOTS
from shapo.differentiable.simulator import Simulator

TOLERANCE = {"DiffAnt": 2e-3, "DiffHumanoid": 1e-2}


@pytest.fixture(scope="module", params=list(ROBOTS))
def task(request) -> str:
    return request.param


@pytest.mark.parametrize("horizon", [1, 4, 8])
def test_gradients_are_those_of_central_differences(task, horizon):
    check = gradient_check(task, horizon)
    assert relative_error(check) < TOLERANCE[task] and check.converged.mean() > 0.95


def test_without_the_correction_they_would_not_be(monkeypatch):
    """The check sees the fault that `gradient_fix` removes."""
    monkeypatch.setattr(solver_featherstone, "eval_rigid_tau", kernels.eval_rigid_tau)
    assert relative_error(gradient_check("DiffAnt", 8)) > 10 * TOLERANCE["DiffAnt"]


def slope_error(simulator: Simulator, horizon: int = 32) -> float:
    """Of the slope along the gradient of 64 robots' mean distance in all actions of a window, after landing."""
    robot, count, generator = simulator.robot, simulator.num_envs, torch.Generator().manual_seed(0)
    scale, shape = torch.tensor(robot.torque), (20 + horizon, count, robot.actions)
    actions = torch.rand(shape, generator=generator) - 0.5
    with torch.no_grad():
        q, qd = simulator.q0.repeat(count, 1), torch.zeros(count, 6 + robot.actions)
        q, qd = rolled_out(simulator, q, qd, actions[:20] * scale)

    def distance(actions):
        return rolled_out(simulator, q, qd, actions * scale)[0][:, 0].double().mean()

    actions = actions[20:].requires_grad_()
    (gradient,) = torch.autograd.grad(distance(actions), actions)
    with torch.no_grad():
        ahead, behind = (distance(actions + step * gradient / gradient.norm()) for step in (0.1, -0.1))
    return abs(float(gradient.norm() / ((ahead - behind) / 0.2) - 1))


def test_gradients_are_right_over_a_whole_window_of_contacts(task):
    assert slope_error(Simulator(ROBOTS[task], 64)) < 0.02


def test_on_ground_whose_force_jumps_they_would_not_be(monkeypatch):
    """Newton's own contact, whose damping sets in at depth 0: why `contact` replaces it."""
    monkeypatch.setattr(solver_featherstone, "eval_body_contact", kernels_contact.eval_body_contact)
    simulator = Simulator(replace(ROBOTS["DiffAnt"], damping=1e3), 64)
    assert slope_error(simulator) > 0.05


def contact_forces(
    kernel, state: dict[str, np.ndarray], damping: float, radius=0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Forces and torques (k, 6) on spheres at the tips of k bodies, by `kernel`; and Σ cos(i) f_i's gradient in q."""
    k = len(state["q"])
    q = wp.array(state["q"], dtype=wp.transform, requires_grad=True)
    qd = wp.array(state["qd"], dtype=wp.spatial_vector, requires_grad=True)
    material = [wp.full(k, value, dtype=float) for value in (4e4, damping, 3e3, 0.0, 0.75)]
    vectors = [wp.array(np.tile(v, (k, 1)), dtype=wp.vec3) for v in ((0.3, 0, 0), (0, 0, 0), (0, 0, -1))]
    inputs = [
        q, qd, wp.array(np.tile((0.05, 0, 0), (k, 1)), dtype=wp.vec3), *material, wp.array(np.arange(k), dtype=int),
        wp.array([k], dtype=int), vectors[0], vectors[1], None, vectors[2], wp.array(np.arange(k), dtype=int),
        wp.full(k, -1, dtype=int), wp.full(k, radius, dtype=float), wp.zeros(k, dtype=float), None, None, None, False,
    ]  # fmt: skip
    force = wp.zeros(k, dtype=wp.spatial_vector, requires_grad=True)
    with wp.Tape() as tape:
        wp.launch(kernel, k, inputs=inputs, outputs=[force])
    found = force.numpy().copy()  # Newton's backward pass adds to it once more
    weights = np.cos(np.arange(6 * k)).reshape(k, 6)
    tape.backward(grads={force: wp.array(weights, dtype=wp.spatial_vector)})
    return found, np.c_[q.grad.numpy(), qd.grad.numpy()]


@pytest.fixture
def touching() -> dict[str, np.ndarray]:
    """Bodies some of whose tips are in the ground, at all speeds; one does not touch, one rests."""
    rng = np.random.default_rng(0)
    q = np.c_[rng.uniform(-1, 1, (40, 2)), rng.uniform(-0.2, 0.4, 40), rng.standard_normal((40, 4))]
    q[:, 3:] /= np.linalg.norm(q[:, 3:], axis=1, keepdims=True)
    qd = rng.standard_normal((40, 6)) * rng.choice([0.01, 1.0], 40)[:, None]
    q[0], q[1], qd[1] = (0, 0, 5, 0, 0, 0, 1), (0, 0, 0.05, 0, 0, 0, 1), 0
    return {"q": q, "qd": qd}


def test_without_damping_the_ground_is_newtons(touching):
    ours, theirs = (
        contact_forces(kernel, touching, damping=0.0)
        for kernel in (solver_featherstone.eval_body_contact, kernels_contact.eval_body_contact)
    )
    assert 10 < np.any(ours[0], axis=1).sum() < 40 and not np.any(ours[0][0]) and np.any(ours[0][1])
    for mine, newtons in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, newtons, rtol=1e-4, atol=1e-4 * np.abs(newtons).max())


def test_damping_grows_with_the_depth_and_does_not_widen_the_friction_cone(touching):
    """f_n = d (k_e + k_d max(−v, 0)): the rest of the force is that without damping."""
    kernel = solver_featherstone.eval_body_contact
    damped, plain = (contact_forces(kernel, touching, damping)[0] for damping in (1e4, 0.0))
    rotation = Rotation.from_quat(touching["q"][:, 3:])
    arm = rotation.apply([0.25, 0, 0]) - [0, 0, 0.1]
    depth = -(touching["q"][:, 2] + rotation.apply([0.3, 0, 0])[:, 2] - 0.1).clip(max=0)
    speed = touching["qd"][:, 2] + np.cross(touching["qd"][:, 3:], arm)[:, 2]
    extra = 1e4 * depth * (-speed).clip(0)
    assert (extra > 10).sum() >= 5
    up = np.c_[np.zeros((40, 2)), extra]
    np.testing.assert_allclose(damped - plain, np.c_[up, np.cross(arm, up)], rtol=1e-3, atol=0.05)


def products(kernel, A, B, transpose: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C by `kernel`, and the gradients of Σ w C in A and B; A and B hold a matrix per robot."""
    count, inner, columns = B.shape
    rows = A.shape[2] if transpose else A.shape[1]
    ints = {
        name: wp.full(count, value, dtype=int) for name, value in (("m", rows), ("n", columns), ("p", inner))
    }
    starts = [wp.array(np.arange(count) * size, dtype=int) for size in (A[0].size, B[0].size, rows * columns)]
    a, b = (wp.array(array.ravel(), dtype=float, requires_grad=True) for array in (A, B))
    c = wp.zeros(count * rows * columns, dtype=float, requires_grad=True)
    with wp.Tape() as tape:
        wp.launch(kernel, count, inputs=[*ints.values(), transpose, False, *starts, a, b], outputs=[c])
    weights = np.sin(np.arange(c.size))
    tape.backward(grads={c: wp.array(weights, dtype=float)})
    return c.numpy(), a.grad.numpy(), b.grad.numpy()


def test_mass_matrix_is_newtons_without_its_zeros():
    """P = MJ for M of blocks, then H = JᵀP: values and gradients of the dense products, where M has entries at all."""
    rng = np.random.default_rng(0)
    count, bodies, dofs = 3, 4, 9
    M, blocks = (
        np.zeros((count, 6 * bodies, 6 * bodies)),
        np.kron(np.eye(bodies), np.ones((6, 6))).astype(bool),
    )
    inertia = rng.standard_normal((count, bodies, 6, 6))
    for body in range(bodies):
        place = slice(6 * body, 6 * body + 6)
        M[:, place, place] = inertia[:, body] + inertia[:, body].swapaxes(1, 2)
    J = rng.standard_normal((count, 6 * bodies, dofs))
    dense, ours = kernels.eval_dense_gemm_batched, solver_featherstone.eval_dense_gemm_batched
    assert ours is not dense
    (P, adj_M, adj_J), found = (products(kernel, M, J, transpose=False) for kernel in (dense, ours))
    np.testing.assert_allclose(found[0], P, atol=1e-5)
    np.testing.assert_allclose(
        found[1].reshape(M.shape)[:, blocks], adj_M.reshape(M.shape)[:, blocks], atol=1e-5
    )
    np.testing.assert_allclose(found[2], adj_J, atol=1e-5)
    P = P.reshape(J.shape)
    (H, *_), found = (products(kernel, J, P, transpose=True) for kernel in (dense, ours))
    np.testing.assert_allclose(found[0], H, rtol=1e-4, atol=1e-4)
    H = found[0].reshape(count, dofs, dofs)
    np.testing.assert_array_equal(H, H.swapaxes(1, 2))
    # Of Σ w H with H = JᵀMJ: adj_J = MJ (W + Wᵀ), however the two products share it out.
    W = np.sin(np.arange(H.size)).reshape(H.shape)
    for kernel in (dense, ours):
        _, through_J, adj_P = products(kernel, J, P, transpose=True)
        adj_J = through_J.reshape(J.shape) + M @ adj_P.reshape(J.shape)
        np.testing.assert_allclose(adj_J, M @ J @ (W + W.swapaxes(1, 2)), rtol=1e-3, atol=2e-3)


def mujoco_reference(robot) -> mujoco.MjModel:
    """The same file in MuJoCo, with the same densities and armatures."""
    tree = ElementTree.parse(Path(newton.__file__).parent / "examples" / "assets" / robot.asset)
    for geom in tree.iter("geom"):
        geom.set("density", str(robot.density))
    for sensor in tree.getroot().findall("sensor"):  # some name sites that the file does not have
        tree.getroot().remove(sensor)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(tree.getroot(), encoding="unicode"))
    if robot.armature is not None:
        model.dof_armature[6:] = robot.armature
    return model


def test_every_actuator_accelerates_its_own_joint_as_in_mujoco(task):
    """(H⁻¹ τ) of one motor at a time, from one explicit step in the air, joint by joint under MuJoCo's names."""
    robot = replace(ROBOTS[task], substeps=1)
    model, n = mujoco_reference(robot), robot.actions
    assert [model.joint(i).name for i in range(1, model.njnt)] == list(robot.joints)
    q = Simulator(robot, 1, gradients=False).q0.repeat(n + 1, 1)
    q[:, 2] = 5.0
    q[:, 7:] += torch.linspace(-0.2, 0.2, n)
    torque = torch.cat([torch.diag(torch.tensor(robot.torque)), torch.zeros(1, n)])
    _, qd = Simulator(robot, n + 1, gradients=False).step(q, torch.zeros(n + 1, 6 + n), torque)
    measured = ((qd[:n] - qd[n]) / CONTROL_DT)[:, 6:].double().numpy()

    data = mujoco.MjData(model)
    data.qpos[:] = np.r_[q[0, :3], q[0, 6], q[0, 3:6], q[0, 7:]]
    mujoco.mj_forward(model, data)
    forces, accelerations = np.c_[np.zeros((n, 6)), torque[:n].numpy()], np.zeros((n, 6 + n))
    mujoco.mj_solveM(model, data, accelerations, forces)
    expected = accelerations[:, 6:]
    assert np.diag(measured).min() > 0
    np.testing.assert_allclose(measured, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_joint_limits_are_those_of_the_file(task):
    robot = ROBOTS[task]
    model, reference = Simulator(robot, 1, gradients=False).model, mujoco_reference(robot)
    limits = np.c_[model.joint_limit_lower.numpy(), model.joint_limit_upper.numpy()][6:]
    np.testing.assert_allclose(limits, reference.jnt_range[1:], atol=1e-5)


def test_it_falls_freely_until_it_touches(task):
    simulator = Simulator(ROBOTS[task], 1, gradients=False)
    q, qd = simulator.q0[None].clone(), torch.zeros(1, 6 + ROBOTS[task].actions)
    q[:, 2] = 10.0
    for _ in range(12):
        q, qd = simulator.step(q, qd, torch.zeros(1, ROBOTS[task].actions))
    # springs in the joints move limbs against each other, and the torso a little
    assert float(qd[0, 2]) == pytest.approx(-9.81 * 12 * CONTROL_DT, abs=0.2)


def test_the_ant_comes_to_rest_where_springs_carry_its_weight():
    robot = ROBOTS["DiffAnt"]
    simulator = Simulator(robot, 3, gradients=False)
    simulator.set_contact(stiffness=np.array([1e4, 4e4, 1.6e5]))
    q, qd = simulator.q0.repeat(3, 1), torch.zeros(3, 14)
    for _ in range(240):
        q, qd = simulator.step(q, qd, torch.zeros(3, 8))
    assert qd.abs().max() < 0.02
    assert q[0, 2] < q[1, 2] < q[2, 2] < robot.start_height  # stiffer ground, higher rest
    ends, radii = simulator.skeleton(q)
    depth = (radii[:, None] - ends[..., 2]).clip(0)
    depth[(ends[:, :, 0] == ends[:, :, 1]).all(-1), 1] = 0  # a sphere touches once
    weight = 9.81 * simulator.model.body_mass.numpy().reshape(3, -1).sum(1)
    np.testing.assert_allclose(depth.sum((1, 2)) * [1e4, 4e4, 1.6e5], weight, rtol=1e-3)


def test_friction_and_damping_act_in_the_right_direction():
    robot = ROBOTS["DiffAnt"]
    simulator = Simulator(robot, 3, gradients=False)
    q, qd = simulator.q0.repeat(3, 1), torch.zeros(3, 14)
    for _ in range(120):
        q, qd = simulator.step(q, qd, torch.zeros(3, 8))
    simulator.set_contact(friction=np.array([0.0, 0.2, 0.8]))
    pushed = qd.clone()
    pushed[:, 0] += 2.0
    slid, speed = q, pushed
    for _ in range(15):
        slid, speed = simulator.step(slid, speed, torch.zeros(3, 8))
    assert speed[0, 0] == pytest.approx(2.0, abs=0.1)
    assert speed[0, 0] > speed[1, 0] + 0.2 > speed[2, 0] + 0.4
    simulator.set_contact(damping=np.array([0.0, 3e3, 1e4]), friction=0.75)
    dropped, qd = simulator.q0.repeat(3, 1), torch.zeros(3, 14)
    highest = torch.full((3,), -np.inf)
    for _ in range(60):
        dropped, qd = simulator.step(dropped, qd, torch.zeros(3, 8))
        highest = torch.maximum(highest, qd[:, 2])
    assert highest[0] > highest[1] > highest[2]  # rebound


def test_contact_parameters_are_checked_and_may_not_change_before_the_backward_pass():
    simulator = Simulator(ROBOTS["DiffAnt"], 2)
    for wrong in ({"stiffness": 0.0}, {"friction": -0.1}, {"damping": np.nan}, {"friction": np.ones(3)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            simulator.set_contact(**wrong)
    torque = torch.zeros(2, 8, requires_grad=True)
    q, _ = simulator.step(simulator.q0.repeat(2, 1), torch.zeros(2, 14), torque)
    simulator.set_contact(friction=0.5)
    with pytest.raises(RuntimeError, match="contact parameters were set"):
        q.sum().backward()


def test_an_environment_that_breaks_down_leaves_the_others_alone():
    simulator = Simulator(ROBOTS["DiffAnt"], 3)
    q, qd = simulator.q0.repeat(3, 1), torch.zeros(3, 14)
    torque = torch.full((3, 8), 10.0, requires_grad=True)
    (whole,) = torch.autograd.grad(simulator.step(q, qd, torque)[1][1:].square().sum(), torque)
    qd[0, 7] = 1e30
    after = simulator.step(q, qd, torque)[1]
    assert not torch.isfinite(after[0]).all() and torch.isfinite(after[1:]).all()
    (gradient,) = torch.autograd.grad(
        torch.where(torch.tensor([[0.0], [1], [1]]) > 0, after, 0.0).square().sum(), torque
    )
    torch.testing.assert_close(gradient, whole, rtol=0, atol=0)
    assert simulator.dropped_gradients == 1


PEAK = """
import resource, torch
from shapo.differentiable.gradient_check import rolled_out
from shapo.differentiable.robots import ROBOTS
from shapo.differentiable.simulator import Simulator
simulator = Simulator(ROBOTS["DiffAnt"], 64)
for horizon in (4, 64):
    torques = torch.zeros(horizon, 64, 8, requires_grad=True)
    q, qd = simulator.q0.repeat(64, 1), torch.zeros(64, 14)
    rolled_out(simulator, q, qd, torques)[0].sum().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_horizon():
    """The peak, in a process of its own."""
    said = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    short, long = (int(peak) for peak in said.split()[-2:])
    assert long - short < 0.1 * short  # the states themselves are 64 × 64 × 37 numbers, 0.6 MB


def test_a_row_for_every_robot_is_asked_for():
    simulator = Simulator(ROBOTS["DiffAnt"], 2, gradients=False)
    q, qd, torque = simulator.q0.repeat(2, 1), torch.zeros(2, 14), torch.zeros(2, 8)
    for name, wrong in (
        ("q", (q[:1], qd, torque)),
        ("qd", (q, qd[:1], torque)),
        ("torque", (q, qd, torque[:, :1])),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(2, "):
            simulator.step(*wrong)


@pytest.mark.parametrize("task", ROBOTS)
def test_a_robot_far_away_moves_as_it_would_here(task):
    """To the last bit where it is recentred; without, digits are lost with the square of the distance."""
    moved = {}
    for recentred in (True, False):
        simulator = Simulator(replace(ROBOTS[task], recentred=recentred), 2)
        q, torque = simulator.q0.repeat(2, 1), torch.zeros(4, 2, len(ROBOTS[task].torque))
        q[:, 2] -= 0.4  # into the ground, which pushes back
        q[1, :2] = torch.tensor([64.0, -32.0])
        torque.requires_grad_()
        reached = rolled_out(simulator, q, torch.zeros(2, 6 + torque.shape[-1]), torque)
        (gradient,) = torch.autograd.grad(reached[1].square().sum(), torque)
        moved[recentred] = [reached[0][:, 2:].detach(), reached[1].detach(), gradient.transpose(0, 1)]
        if recentred:
            torch.testing.assert_close(reached[0][1, :2] - q[1, :2], reached[0][0, :2], rtol=0, atol=1e-4)
    assert all(torch.equal(*pair) for pair in moved[True])
    assert not torch.equal(*moved[False][1])


def test_joints_are_damped_within_their_limits_too():
    """q̇ of a joint of inertia I under the k_d of its limits and its own: I q̈ = −(k + k_d) q̇, from MuJoCo's matrix."""
    robot = replace(ROBOTS["DiffAnt"], substeps=1)
    simulator = Simulator(robot, 9, gradients=False)
    q, qd = simulator.q0.repeat(9, 1), torch.zeros(9, 14)
    q[:, 2] = 5.0
    qd[:8, 6:] = 1e-3 * torch.eye(8)  # so slow that Coriolis forces do not count
    torque = torch.zeros(9, 8)
    moved = simulator.step(q, qd, torque)[1]
    torque[:8] = -(robot.joint_damping + robot.limit_damping) * qd[:8, 6:]
    pushed = simulator.step(q, 0 * qd, torque)[1]
    torch.testing.assert_close(moved - qd - moved[8], pushed - pushed[8], rtol=1e-2, atol=2e-6)


IN_A_PROCESS = """
import hashlib, torch
from shapo.differentiable.env import DifferentiableEnv
torch.set_num_threads(1)
env = DifferentiableEnv("DiffAnt", num_envs=4, seed=3)
actions = torch.linspace(-1, 1, 32).view(4, 8).requires_grad_()
total = sum(env.step(actions)[1].sum() for _ in range(10))
total.backward()
print(hashlib.sha256(env.q.detach().numpy().tobytes() + actions.grad.numpy().tobytes()).hexdigest())
"""


def test_two_processes_give_the_same_bytes():
    command = [sys.executable, "-c", IN_A_PROCESS]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert len(first.strip()) == 64 and first == second


def test_another_newton_is_refused_with_what_to_install(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.9.0" if name == "newton" else real(name)
    )
    with pytest.raises(
        ImportError, match=r"pip install newton==1\.8\.0 warp-lang==1\.19\.0 .*found newton 1\.9\.0"
    ):
        gradient_fix.check_versions()


def test_an_edited_newton_is_refused(monkeypatch):
    monkeypatch.setattr(gradient_fix, "OVERWRITES", "        something[else] = f_ext\n")
    with pytest.raises(ImportError, match="was edited"):
        gradient_fix._corrected_tau()
