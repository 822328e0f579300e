"""A robot's `Mechanism`, read by Newton's own importer from the MJCF file that ships with Newton."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation

from shapo.robots.simulator.catalogue import Robot
from shapo.robots.simulator.dynamics import Body, Mechanism

VERSIONS = {"newton": "1.8.0", "warp-lang": "1.19.0"}


def check_versions() -> None:
    """Raises ImportError where Newton or Warp is missing, or has a version with which the simulator was not tested."""
    found = dict.fromkeys(VERSIONS, "none")
    for package in VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if found != VERSIONS:
        wanted = " ".join(f"{package}=={version}" for package, version in VERSIONS.items())
        here = ", ".join(f"{package} {version}" for package, version in found.items())
        raise ImportError(
            f"the differentiable simulator reads its robots with Newton and is compiled by Warp, so it needs just the "
            f"versions it was tested with: pip install {wanted} (found {here})"
        )


check_versions()

import warp as wp  # noqa: E402

wp.config.log_level = wp.LOG_ERROR  # no banner

import newton  # noqa: E402

from shapo.robots.simulator.cache import compiling  # noqa: E402


def builder(robot: Robot) -> newton.ModelBuilder:
    """A Newton builder with one robot. Raises ValueError where the file's joints are not `robot.joints`."""
    tree = ElementTree.parse(Path(newton.__file__).parent / "examples" / "assets" / robot.asset)
    for geom in tree.iter("geom"):  # the files set densities, which a builder's default would not replace
        geom.set("density", f"{robot.density:g}")
    names = tuple(name for joint in tree.iter("joint") if (name := joint.get("name")) not in (None, "root"))
    if names != robot.joints:
        raise ValueError(f"{robot.asset} has the joints {names}, not the robot's own: {robot.joints}")
    one = newton.ModelBuilder(up_axis=newton.Axis.Z)
    one.add_mjcf(
        ElementTree.tostring(tree.getroot(), encoding="unicode"),
        ignore_names=["floor"], enable_self_collisions=False, parse_sites=False,
    )  # fmt: skip
    return one


@cache
def mechanism(robot: Robot) -> Mechanism:
    """The robot as `dynamics` needs it. Raises ValueError for a file that `dynamics` cannot simulate."""
    with compiling():
        model = builder(robot).finalize(device="cpu")

    def read(name: str) -> NDArray:
        return getattr(model, name).numpy()

    parents, starts = read("joint_parent"), read("joint_qd_start")
    free = read("joint_type")[0] == newton.JointType.FREE and (parents[1:] >= 0).all()
    if not free or not np.array_equal(read("joint_child"), np.arange(len(parents))):
        raise ValueError(f"{robot.asset} must be one tree of bodies below a free torso")
    counts = len(read("joint_q")) - 7, len(read("joint_qd")) - 6
    if counts != (len(robot.joints),) * 2 or read("joint_dof_dim")[1:, 0].any():
        raise ValueError(f"{robot.asset} must have hinges alone below its torso")
    # Bodies are moved to the frames of their hinges, which saves a translation per body and step over Newton's own.
    frames = [_transform(row).inv() for row in read("joint_X_c")]
    shapes, axes, bodies = capsules(model), read("joint_axis"), []
    for index, (parent, frame) in enumerate(zip(parents, frames, strict=True)):
        hinges, turned, dofs = _transform(read("joint_X_p")[index]), frame.rotation.as_matrix(), slice(0)
        if parent >= 0:
            hinges, dofs = frames[parent] * hinges, slice(*starts[index : index + 2])
        bodies.append(Body(
            parent=int(parent), place=exact(hinges.translation), turn=exact(hinges.rotation.as_matrix()),
            axes=exact(axes[dofs]), com=exact(frame.apply(read("body_com")[index])),
            mass=float(read("body_mass")[index]), inertia=exact(turned @ read("body_inertia")[index] @ turned.T),
            capsules=[(exact(frame.apply(ends)), radius) for _, body, ends, radius in shapes if body == index],
        ))  # fmt: skip

    def of_hinges(name: str, instead: float | None = None) -> NDArray:
        """A constant of each hinge (n,): Newton's array of that name, or the robot's number `instead`."""
        values = read(name)[6:]
        return values if instead is None else np.full(len(values), instead)

    return Mechanism(
        bodies=tuple(bodies), gravity=exact(read("gravity")[0]), friction_gain=robot.friction_gain,
        lower=exact(of_hinges("joint_limit_lower")), upper=exact(of_hinges("joint_limit_upper")),
        limit_stiffness=robot.limit_stiffness, stiffness=exact(of_hinges("joint_stiffness")),
        # As in DFlex, the limits' damping acts at every angle. Newton's acts only beyond the limits, where it jumps.
        damping=exact(of_hinges("joint_damping", robot.joint_damping) + robot.limit_damping),
        rest=exact(read("joint_rest_q")[7:]), armature=exact(of_hinges("joint_armature", robot.armature)),
    )  # fmt: skip


def exact(values: NDArray) -> NDArray:
    """An object array of Python floats. Values that are 0 but for rounding become 0, so that formulas drop them."""
    values = np.asarray(values, np.float64)
    small = np.abs(values) < 1e-6 * np.abs(values).max(initial=0.0)
    return np.where(small, 0.0, values).astype(object)


def _transform(row: NDArray) -> RigidTransform:
    """The transform of a row of Newton's: position and quaternion x y z w."""
    return RigidTransform.from_components(row[:3], Rotation.from_quat(row[3:]))


def capsules(model: newton.Model) -> list[tuple[int, int, NDArray, float]]:
    """(shape, body, ends (2, 3), radius) of each shape, in its body's frame; both ends of a sphere are its centre."""
    found = []
    names = ("shape_type", "shape_body", "shape_scale", "shape_transform")
    columns = (getattr(model, name).numpy() for name in names)
    for shape, (kind, body, scale, row) in enumerate(zip(*columns, strict=True)):
        if body < 0:
            continue
        if kind not in (newton.GeoType.SPHERE, newton.GeoType.CAPSULE):
            raise ValueError(f"a robot is made of spheres and capsules; got {newton.GeoType(kind)}")
        half = float(scale[1]) if kind == newton.GeoType.CAPSULE else 0.0
        ends = _transform(row).apply([[0, 0, -half], [0, 0, half]])
        found.append((shape, int(body), ends, float(scale[0])))
    return found
