"""The differentiable simulator: against Newton's, finite differences, MuJoCo's mass matrix, and common sense."""

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

from shapo.peers.newton_solver import NewtonSolver
from shapo.robots.simulator import CONTROL_DT, ROBOTS, dynamics, mechanism
from shapo.robots.simulator.expressions import Graph, evaluate, gradients, where
from shapo.robots.simulator.gradient_check import gradient_check, relative_error, rolled_out
from shapo.robots.simulator.kernels import LANES, formulas
from shapo.robots.simulator.mechanism import newton
from shapo.robots.simulator.simulator import Simulator

TOLERANCE = {"DiffAnt": 2e-3, "DiffHumanoid": 1e-2}


@pytest.fixture(scope="module", params=list(ROBOTS))
def task(request) -> str:
    return request.param


def moving(task: str, count: int, seed: int = 0) -> list[torch.Tensor]:
    """q, qd, torque of robots that are turned, bent, pushed and partly in the ground."""
    robot, generator = ROBOTS[task], torch.Generator().manual_seed(seed)
    n, (turn, bend, push, pull) = robot.actions, torch.rand(4, count, 40, generator=generator).mul(2).sub(1)
    q = torch.zeros(count, 7 + n)
    q[:, 2] = robot.start_height - 0.3 * torch.rand(count, generator=generator)
    q[:, 3:7] = torch.nn.functional.normalize(torch.tensor([0.0, 0, 0, 1]) + 0.4 * turn[:, :4])
    q[:, 7:] = torch.tensor(robot.start_joints) + 0.6 * bend[:, :n]
    return [q, 2 * push[:, : 6 + n], 0.5 * torch.tensor(robot.torque) * pull[:, :n]]


def along_the_sphere(gradient: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Without the part that would lengthen the quaternion, which every formula for a rotation takes otherwise."""
    gradient, r = gradient.clone(), q[:, 3:7]
    gradient[:, 3:7] -= (gradient[:, 3:7] * r).sum(1, keepdim=True) * r
    return gradient


def assert_close(found: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Every robot's row, relative to its length."""
    assert float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) < relative


def test_a_control_step_and_its_gradients_are_newtons(task):
    q, *_ = state = moving(task, 20)
    ours, seeds = Simulator(ROBOTS[task], 20), [value.sin() for value in moving(task, 20, seed=7)[:2]]
    leaves = [value.clone().requires_grad_() for value in state]
    reached = ours.step(*leaves)
    found = torch.autograd.grad(reached, leaves, seeds)
    theirs = NewtonSolver(ROBOTS[task], 20)
    expected, slopes = theirs.forward(*state), theirs.backward(*seeds)
    still = Simulator(replace(ROBOTS[task], stiffness=1e-3, damping=0.0), 20, gradients=False).step(*state)
    assert ((reached[1] - still[1]).norm(dim=1) > 0.1).sum() > 5  # the ground has pushed
    for mine, newtons in zip(reached, expected, strict=True):
        assert_close(mine.detach(), newtons, 1e-4)
    # Position on level ground: Newton's mass matrix of a control step's start stands still while the robot moves on.
    assert_close(along_the_sphere(found[0], q)[:, 2:], along_the_sphere(slopes[0], q)[:, 2:], 1e-3)
    for mine, newtons in zip(found[1:], slopes[1:], strict=True):
        assert_close(mine, newtons, 1e-3)


def test_gradients_are_not_those_of_newton_as_released():
    """Its backward pass reads a contact force with the wrong sign: the fault that `newton_solver` mends."""
    state, found = moving("DiffAnt", 20), []
    seeds = [value.sin() for value in moving("DiffAnt", 20, seed=7)[:2]]
    for corrected in (True, False):
        solver = NewtonSolver(ROBOTS["DiffAnt"], 20, corrected)
        solver.forward(*state)
        found.append(solver.backward(*seeds)[1])
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 1e-2


def test_a_compiled_step_is_the_formula(task):
    """Of which a substep's gradients are central differences, in double precision."""
    robot, (q, qd, torque) = ROBOTS[task], moving(task, 9, seed=1)
    known, contact = formulas(robot), [robot.stiffness, robot.damping, robot.friction]
    values = {"q": q.T, "qd": qd.T, "u": torque.T, "contact": np.tile(contact, (9, 1)).T}
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    values["L"] = evaluate(known.factor, values)
    after, weights = (
        np.concatenate([*known.after.values()]),
        np.random.default_rng(0).standard_normal((200, 9)),
    )
    bars = {"q_bar": weights[: len(q.T)], "qd_bar": weights[len(q.T) :][: len(qd.T)]}
    for name, slopes in known.back().items():
        found = evaluate(slopes, values | bars)
        for row in range(0, len(slopes), 3):
            ahead, behind = (values | {name[:-3]: values[name[:-3]].copy()} for _ in range(2))
            step = 1e-6 * max(1.0, np.abs(values[name[:-3]][row]).max())
            ahead[name[:-3]][row] += step
            behind[name[:-3]][row] -= step
            change = evaluate(after, ahead) - evaluate(after, behind)
            difference = (change * np.concatenate([*bars.values()])).sum(0) / (2 * step)
            atol = 1e-6 * np.abs(found).max() + 1e-9
            np.testing.assert_allclose(found[row], difference, rtol=1e-4, atol=atol)
    for _ in range(robot.substeps):
        values |= dict(zip(("q", "qd"), np.split(evaluate(after, values), [len(q.T)]), strict=True))
    reached = Simulator(robot, 9, gradients=False).step(q, qd, torque)
    for mine, exact in zip(reached, (values["q"], values["qd"]), strict=True):
        assert_close(mine.double(), torch.from_numpy(exact.T), 1e-4)


def test_the_mass_matrix_is_factored_without_filling_its_zeros(task):
    """H = LᵀL and its solution as numpy has them; H as MuJoCo does."""
    robot, parts, graph = ROBOTS[task], mechanism.mechanism(ROBOTS[task]), Graph()
    n = 6 + robot.actions
    placed = dynamics.poses(parts, graph.variables("q", 1 + n))
    dense = dynamics.mass_matrix(parts, placed)
    L = dynamics.factor(dense)
    zeros, kept = (np.array([[value == 0.0 for value in row] for row in H[6:]]) for H in (dense, L))
    assert zeros.sum() > 40  # between limbs, not of the torso
    np.testing.assert_array_equal(np.tril(zeros, 6), np.tril(kept, 6))
    b = np.random.default_rng(0).standard_normal(n)
    q = {"q": moving(task, 3)[0].T.double().numpy()}
    H, x = evaluate(dense.ravel(), q), evaluate(dynamics.solve(L, b.astype(object)), q)
    for column in range(3):
        matrix = H[:, column].reshape(n, n)
        np.testing.assert_allclose(np.linalg.solve(matrix, b), x[:, column], rtol=1e-8)
    model = mujoco_reference(robot)
    data, full = mujoco.MjData(model), np.zeros((n, n))
    data.qpos[:] = np.r_[q["q"][:3, 0], np.roll(q["q"][3:7, 0], 1), q["q"][7:, 0]]
    mujoco.mj_forward(model, data)
    mujoco.mj_fullM(model, data, full)
    np.testing.assert_allclose(H[:, 0].reshape(n, n)[6:, 6:], full[6:, 6:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("horizon", [1, 4, 8])
def test_gradients_are_those_of_central_differences(task, horizon):
    check = gradient_check(task, horizon)
    assert relative_error(check) < TOLERANCE[task] and check.converged.mean() > 0.95


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


def test_gradients_would_be_wrong_on_ground_that_jumps(monkeypatch):
    """Newton's own contact, whose damping sets in at depth 0."""
    smooth = dynamics.ground_force

    def jumping(height, velocity, contact, friction_gain):
        stiffness, damping, friction = contact
        force = smooth(height, velocity, (stiffness, 0.0, friction), friction_gain)
        falling = where(velocity[2] < 0.0, -velocity[2], 0.0)
        force[2] = force[2] + where(height < 0.0, damping * falling, 0.0)
        return force

    monkeypatch.setattr(dynamics, "ground_force", jumping)
    robot = replace(ROBOTS["DiffAnt"], damping=1e3)  # another robot, so that its formulas are written anew
    assert slope_error(Simulator(robot, 64)) > 0.05


def test_the_ground_is_spring_damper_and_friction_cone():
    """f_n = d (k_e + k_d max(−v, 0)), f_t = −k_f v_t of at most μ k_e d; its slopes are central differences."""
    rng = np.random.default_rng(0)
    height, contact = rng.uniform(-0.1, 0.05, 300), np.array([4e4, 1e4, 0.75])
    velocity = rng.standard_normal((3, 300)) * rng.choice([0.01, 1.0], 300)
    height[0], velocity[:, 1] = 0.3, 0
    graph = Graph()
    h, v, w = (graph.variables(name, count) for name, count in (("h", 1), ("v", 3), ("w", 3)))
    force = dynamics.ground_force(h[0], v, contact.astype(object), 3e3)
    given = {"h": height[None], "v": velocity, "w": rng.standard_normal((3, 300))}
    found, depth = evaluate(force, given), (-height).clip(0)
    speed = np.linalg.norm(velocity[:2], axis=0)
    normal = depth * (4e4 + 1e4 * (-velocity[2]).clip(0))
    drag = np.minimum(3e3 * speed, 0.75 * 4e4 * depth) / np.where(speed > 0, speed, 1)
    np.testing.assert_allclose(found, [*(-drag * velocity[:2]), normal], rtol=1e-12)
    assert (normal > 0).sum() > 100 and np.any(drag == 3e3) and not found[:, 0].any()

    slopes = evaluate(gradients(force, w, [*h, *v]), given)
    for row, name in enumerate(["h", "v", "v", "v"]):
        ahead, behind = ({key: value.copy() for key, value in given.items()} for _ in range(2))
        ahead[name][max(row - 1, 0)] += 1e-7
        behind[name][max(row - 1, 0)] -= 1e-7
        difference = ((evaluate(force, ahead) - evaluate(force, behind)) * given["w"]).sum(0) / 2e-7
        sound = np.abs(height) > 1e-6  # neither side of the surface, nor at rest, where it sets in
        np.testing.assert_allclose(slopes[row][sound][2:], difference[sound][2:], rtol=1e-3, atol=1.0)


@pytest.mark.parametrize("count", [1, LANES, LANES + 1])
def test_a_robot_moves_as_it_would_alone(count):
    """Whatever its place in a vector, and whoever stands beside it: to the last bit, gradients too."""
    state = moving("DiffAnt", 40)

    def stepped(rows: slice) -> list[torch.Tensor]:
        leaves = [value[rows].clone().requires_grad_() for value in state]
        reached = Simulator(ROBOTS["DiffAnt"], len(leaves[0])).step(*leaves)
        return [*reached, *torch.autograd.grad(sum(value.square().sum() for value in reached), leaves)]

    whole, part = stepped(slice(0, 40)), stepped(slice(40 - count, 40))
    assert all(torch.equal(mine[40 - count :], alone) for mine, alone in zip(whole, part, strict=True))


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
    parts, reference = mechanism.mechanism(robot), mujoco_reference(robot)
    limits = np.c_[parts.lower, parts.upper].astype(float)
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
    weight = 9.81 * sum(body.mass for body in mechanism.mechanism(robot).bodies)
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


def test_contact_parameters_are_checked_and_keep_for_the_backward():
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
    sound = torch.where(torch.tensor([[False], [True], [True]]), after, 0.0)
    (gradient,) = torch.autograd.grad(sound.square().sum(), torque)
    torch.testing.assert_close(gradient, whole, rtol=0, atol=0)
    assert simulator.dropped_gradients == 1


PEAK = """
import resource, torch
from shapo.robots.simulator.gradient_check import rolled_out
from shapo.robots.simulator import ROBOTS
from shapo.robots.simulator.simulator import Simulator
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
    short, long = (int(peak) * (1 if sys.platform == "darwin" else 1024) for peak in said.split()[-2:])
    assert long - short < 4e6  # the states are 64 × 64 × 37 numbers, 0.6 MB; those of substeps would be 7


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


def test_a_robot_far_away_moves_as_it_would_here(task):
    """To the last bit: moments about an origin that is far away would lose digits with the square of the distance."""
    simulator, torque = Simulator(ROBOTS[task], 2), torch.zeros(4, 2, ROBOTS[task].actions)
    q = simulator.q0.repeat(2, 1)
    q[:, 2] -= 0.4  # into the ground, which pushes back
    q[1, :2] = torch.tensor([64.0, -32.0])
    torque.requires_grad_()
    reached = rolled_out(simulator, q, torch.zeros(2, 6 + torque.shape[-1]), torque)
    (gradient,) = torch.autograd.grad(reached[1].square().sum(), torque)
    for pair in (reached[0][:, 2:], reached[1], gradient.transpose(0, 1)):
        assert torch.equal(*pair)
    torch.testing.assert_close(reached[0][1, :2] - q[1, :2], reached[0][0, :2], rtol=0, atol=1e-4)
    begun = q.clone().requires_grad_()
    ended = simulator.step(begun, torch.zeros(2, 6 + torque.shape[-1]), torque[0])[0]
    for column in (0, 1):
        (slope,) = torch.autograd.grad(ended[:, column].sum(), begun, retain_graph=True)
        assert slope[:, :2].tolist() == [[float(column == 0), float(column == 1)]] * 2


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
from shapo.robots.env import DifferentiableEnv
torch.set_num_threads(1)
env = DifferentiableEnv("DiffAnt", num_envs=4, seed=3)
env.q.requires_grad_()
q = env.q
actions = torch.linspace(-1, 1, 32).view(4, 8).requires_grad_()
total = sum(env.step(actions)[1].sum() for _ in range(10))
total.backward()
numbers = env.q.detach(), actions.grad, q.grad
print(hashlib.sha256(b"".join(values.numpy().tobytes() for values in numbers)).hexdigest())
"""


def test_two_processes_give_the_same_bytes():
    command = [sys.executable, "-c", IN_A_PROCESS]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = (run.stdout for run in runs)
    assert len(first.strip()) == 64 and first == second


def test_another_newton_is_refused_with_what_to_install(monkeypatch):
    found = {"newton": "1.9.0", "warp-lang": importlib.metadata.version("warp-lang")}
    monkeypatch.setattr(importlib.metadata, "version", found.get)
    what = r"pip install newton==1\.8\.0 warp-lang==1\.19\.0 .*found newton 1\.9\.0"
    with pytest.raises(ImportError, match=what):
        mechanism.check_versions()


def test_a_robot_that_the_formulas_do_not_know_is_refused():
    with pytest.raises(ValueError, match="has the joints"):
        mechanism.mechanism(replace(ROBOTS["DiffAnt"], joints=("hip",) * 8))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("joint[@name='ankle_1']", {"type": "ball"}, "hinges alone"),
        ("joint[@name='ankle_1']", {"type": "slide"}, "hinges alone"),
        ("joint[@name='root']", {"type": "hinge"}, "a free torso"),
        ("geom[@name='torso_geom']", {"type": "box", "size": "0.2 0.2 0.2"}, "spheres and capsules"),
    ],
    ids=["ball", "slide", "no free torso", "box"],
)
def test_a_file_that_the_formulas_cannot_simulate_is_refused(part, change, message, tmp_path):
    assets = Path(newton.__file__).parent / "examples" / "assets"
    tree = ElementTree.parse(assets / ROBOTS["DiffAnt"].asset)
    tree.find(f".//{part}").attrib.update(change)
    tree.write(tmp_path / "other.xml")
    with pytest.raises(ValueError, match=message):
        mechanism.mechanism(replace(ROBOTS["DiffAnt"], asset=str(tmp_path / "other.xml")))
