"""The two robots of SHAC-ASAM as plain numbers: body, contacts, actuators, and the task of running along +x.

The numbers follow DiffRL (Xu et al. 2022). States are Newton's generalised coordinates, with z up:

    q   (N, 7 + n): position of the torso, its quaternion x y z w, joint angles
    qd  (N, 6 + n): velocity of its centre of mass and angular velocity in world axes, joint velocities
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CONTROL_DT = 1 / 60  # seconds between actions
JOINT_VELOCITY_SCALE = 0.1  # of joint velocities in an observation


@dataclass(frozen=True)
class Robot:
    """A robot and its task. All fields are in SI units: angles in radians, torques in N·m."""

    asset: str  # name of an MJCF file that ships with Newton
    joints: tuple[str, ...]  # names of the hinges, in the order of q and of the action
    torque: tuple[float, ...]  # on each joint at action 1, N·m
    start_height: float
    start_joints: tuple[float, ...]
    contact_height: float  # of the torso, at which the feet touch the ground
    settings: Mapping[str, Any] = field(hash=False)  # DiffRL's of SHAC that depend on the robot
    substeps: int  # solver steps in each CONTROL_DT
    stiffness: float  # k_e of contacts, N/m
    damping: float  # k_d of contacts, N·s/m²: damping force over depth · approach speed
    friction_gain: float  # k_f, N·s/m: tangential force over slip speed, at most μ k_e · depth
    friction: float  # μ
    fall_height: float  # of the torso, m; the episode ends below it
    height_tolerance: float | None = None  # m; None: the height above fall_height is itself the reward
    action_penalty: float = 0.0  # weight of ‖action‖² in the reward
    density: float = 1000.0  # kg/m³
    limit_stiffness: float = 1e3  # of joint limits, N·m/rad
    limit_damping: float = 10.0  # N·m·s/rad, added to joint_damping at every angle
    armature: float | None = None  # kg·m²; None: as in the MJCF
    joint_damping: float | None = None  # N·m·s/rad; None: as in the MJCF

    @property
    def actions(self) -> int:
        """n, the number of actuated joints."""
        return len(self.joints)

    @property
    def observations(self) -> int:
        """Number of columns of an observation."""
        return 13 + 3 * self.actions

    def observe(self, q: Tensor, qd: Tensor, action: Tensor) -> Tensor:
        """Observations (N, 13 + 3n): height, quaternion, linear and angular velocity of the torso; joint angles and
        0.1 × joint velocities; the torso's up·z and heading·x; the last action.
        """
        x, y, z = q[:, 3], q[:, 4], q[:, 5]
        upright = 1 - 2 * (x * x + y * y)  # the torso's z-axis along the world's
        heading = 1 - 2 * (y * y + z * z)  # its x-axis along the target, which lies far away on +x
        joint_velocity = JOINT_VELOCITY_SCALE * qd[:, 6:]
        posture = torch.stack([upright, heading], 1)
        return torch.cat([q[:, 2:7], qd[:, :6], q[:, 7:], joint_velocity, posture, action], 1)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Rewards (N,): forward velocity + 0.1 · up·z + heading·x + r(height) − action_penalty · ‖action‖²."""
        height, forward = observation[:, 0], observation[:, 5]
        upright, heading = observation[:, 11 + 2 * self.actions], observation[:, 12 + 2 * self.actions]
        penalty = self.action_penalty * action.square().sum(1)
        return forward + 0.1 * upright + heading + self._height_reward(height) - penalty

    def _height_reward(self, height: Tensor) -> Tensor:
        if self.height_tolerance is None:
            return height - self.fall_height
        above = (height - self.fall_height - self.height_tolerance).clamp(-1.0, self.height_tolerance)
        return torch.where(above < 0, -200 * above.square(), 10 * above)

    def fallen(self, observation: Tensor) -> Tensor:
        """Whether each torso is below fall_height, (N,)."""
        return observation[:, 0] < self.fall_height


ANT_JOINTS = tuple(f"{part}_{leg}" for leg in (1, 2, 3, 4) for part in ("hip", "ankle"))

# DiffRL's motor strengths times its factor 0.35. The joints are in the order of its MJCF file, which is Newton's too.
HUMANOID_TORQUE = {
    "abdomen_z": 70, "abdomen_y": 70, "abdomen_x": 70,
    "right_hip_x": 70, "right_hip_z": 70, "right_hip_y": 210, "right_knee": 140,
    "right_ankle_y": 35, "right_ankle_x": 35,
    "left_hip_x": 70, "left_hip_z": 70, "left_hip_y": 210, "left_knee": 140,
    "left_ankle_y": 35, "left_ankle_x": 35,
    "right_shoulder1": 35, "right_shoulder2": 35, "right_elbow": 70,
    "left_shoulder1": 35, "left_shoulder2": 35, "left_elbow": 70,
}  # fmt: skip

ROBOTS = {
    "DiffAnt": Robot(
        asset="nv_ant.xml", joints=ANT_JOINTS, torque=(200.0,) * 8,
        start_height=0.75, start_joints=(0, 1, 0, -1, 0, -1, 0, 1), contact_height=0.6, substeps=16,
        stiffness=4e4, damping=1e4, friction_gain=3e3, friction=0.75,
        fall_height=0.27, armature=0.05, joint_damping=1.0,
        settings={"actor_hidden_sizes": (128, 64, 32), "critic_hidden_sizes": (64, 64), "critic_lr": 2e-3,
                  "target_critic_alpha": 0.2},
    ),
    "DiffHumanoid": Robot(
        asset="nv_humanoid.xml", joints=tuple(HUMANOID_TORQUE), torque=tuple(map(float, HUMANOID_TORQUE.values())),
        start_height=1.35, start_joints=(0.0,) * 21, contact_height=1.33, substeps=48,
        stiffness=2e4, damping=5e3, friction_gain=1e3, friction=0.75,
        fall_height=0.74, height_tolerance=0.1, action_penalty=0.002,
        settings={"actor_hidden_sizes": (256, 128), "critic_hidden_sizes": (128, 128), "critic_lr": 5e-4,
                  "target_critic_alpha": 0.995},
    ),
}  # fmt: skip
