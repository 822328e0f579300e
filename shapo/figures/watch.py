"""An animated episode of a trained policy: MuJoCo's pictures if it can draw without a screen, else drawings."""

import os
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import mujoco
import numpy as np
import torch
from matplotlib import animation

from shapo.checks import whole
from shapo.envs.episode import record_episode
from shapo.figures.scenes import animated, robot_animation, trajectory_animation
from shapo.figures.style import canvas
from shapo.runs.identity import checked_config
from shapo.runs.run import Run

PROGRAM = Path(__file__).with_name("render.py")
LIBRARIES = "egl", "osmesa", "cgl"  # may draw without a screen; MUJOCO_GL names the first to try
SIZE = 360, 480  # pixels of a picture, height and width
GOAL, HAZARD, LIMB = (0.1, 0.7, 0.4, 0.35), (0.9, 0.6, 0.1, 0.6), (0.0, 0.45, 0.7, 1.0)
STAGE = """<mujoco><asset><texture type="skybox" builtin="flat" rgb1="1 1 1" width="8" height="8"/>
<texture name="t" type="2d" builtin="checker" rgb1=".93 .93 .93" rgb2=".8 .8 .8" width="64" height="64"/>
<material name="m" texture="t" texrepeat=".5 .5" texuniform="true"/></asset>
<worldbody><light directional="true" dir="0 .3 -1" diffuse=".6 .6 .6"/>
<geom type="plane" size="500 500 1" material="m"/></worldbody></mujoco>"""


@dataclass
class Film:
    """An episode that shows itself in a notebook and can be saved. made_by: egl, osmesa, ..., or "drawing"."""

    animation: animation.FuncAnimation
    made_by: str
    episode: dict[str, np.ndarray]  # as `record_episode` gives it

    def _repr_html_(self) -> str:
        return self.animation.to_jshtml()

    def save(self, path: str | Path) -> Path:
        """Writes a .gif, or an .mp4 where ffmpeg is installed."""
        path = Path(path)
        writer = {".gif": "pillow", ".mp4": "ffmpeg"}.get(path.suffix.lower())
        if writer is None or not animation.writers.is_available(writer):
            kinds = ".gif, or where ffmpeg is installed in .mp4"
            raise ValueError(f"path must end in {kinds}; got {str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.animation.save(path, writer=writer)
        return path


def watch(
    run: Run, path: str | Path | None = None, *, seed: int = 0, steps: int = 1000, frames: int = 100,
    deterministic: bool = True, render: bool = True,
) -> Film:  # fmt: skip
    """An episode of the run's policy, of at most `steps`, in at most `frames` pictures; written to `path` if given.

    render: False for a drawing even where MuJoCo can make pictures.
    """
    config = checked_config("run.config", getattr(run, "config", None))
    env = config.make_env(1, seed, **config.undifferentiated)
    rng = None if deterministic else np.random.default_rng([seed, 1])
    with torch.no_grad(), closing(env):
        episode = record_episode(run.actor, env, rng, whole(1)("steps", steps))
    shown = np.arange(0, len(episode["reward"]), -(-len(episode["reward"]) // whole(1)("frames", frames)))
    made_by, pictures = _rendered(episode, shown) if render else ("drawing", None)
    title = f"{run.config.task}, seed {seed}"
    if pictures is not None:
        moving = _flipped_through(pictures, shown, episode, title)
    elif "positions" in episode:
        names = "positions", "goals", "hazards", "cost"
        moving = trajectory_animation(**{name: episode[name] for name in names}, frames=frames, title=title)
    elif "dt" in episode:
        limbs, radii = (episode["limbs"], episode["radii"]) if "limbs" in episode else _limbs(episode)
        every = max(1, int(np.diff(shown[:2]).sum()))
        moving = robot_animation(
            limbs, radii, float(episode["dt"]), title, every=every, rest=episode.get("rest")
        )
    else:
        moving = _counted(episode, shown, title)
    film = Film(moving, made_by, episode)
    if path is not None:
        film.save(path)
    return film


def _rendered(episode: dict, shown: np.ndarray) -> tuple[str, np.ndarray | None]:
    """The library that drew, and its pictures (T, height, width, 3); "drawing" and None where none could."""
    if "dt" not in episode:
        return "drawing", None
    own = os.environ.get("MUJOCO_GL")
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("episode.npz", "world.mjb", "frames.npy")]
        np.savez(files[0], **_told(episode, shown))
        mujoco.mj_saveModel(episode.get("world") or mujoco.MjModel.from_xml_string(STAGE), files[1])
        for library in dict.fromkeys((own, *LIBRARIES) if own else LIBRARIES):
            command, environment = [sys.executable, str(PROGRAM), *files], os.environ | {"MUJOCO_GL": library}
            with suppress(subprocess.TimeoutExpired):
                done = subprocess.run(command, env=environment, capture_output=True, timeout=600)
                if done.returncode == 0:
                    return library, np.load(files[2])
    return "drawing", None


def _told(episode: dict, shown: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that render.py reads: geoms of the world, shapes beside them, and where the camera looks."""
    count = len(shown)
    told = {
        "ends": np.empty((count, 0, 2, 3)), "radii": [], "colours": np.empty((0, 4)), "kinds": [], "size": SIZE,
        "geom_xpos": np.zeros((count, 1, 3)), "geom_xmat": np.tile(np.eye(3).ravel(), (count, 1, 1)),
    }  # fmt: skip
    if "world" in episode:
        told |= {name: episode[name][shown] for name in ("geom_xpos", "geom_xmat")}
    if "positions" in episode:  # discs on the ground: our worlds lack what nothing can hit
        hazards = np.broadcast_to(episode["hazards"], (count, *episode["hazards"].shape))
        discs = np.concatenate([episode["goals"][shown, None], hazards], 1)
        heights = np.broadcast_to([0.001, 0.02], (*discs.shape[:2], 2))
        told["ends"] = np.concatenate([np.repeat(discs[:, :, None], 2, 2), heights[..., None]], 3)
        told["colours"] = np.array([GOAL] + [HAZARD] * len(episode["hazards"]))
        told["radii"] = np.array([0.3] + [0.2] * len(episode["hazards"]))
        told["kinds"] = [int(mujoco.mjtGeom.mjGEOM_CYLINDER)] * discs.shape[1]
        return told | {"look": np.zeros((count, 3)), "camera": (5.5, -65.0, 90.0)}
    if "limbs" in episode:
        told |= {"ends": episode["limbs"][shown], "radii": episode["radii"]}
        told["colours"] = np.tile(LIMB, (len(episode["radii"]), 1))
        told["kinds"] = [int(mujoco.mjtGeom.mjGEOM_CAPSULE)] * len(episode["radii"])
        centre = told["ends"].mean((1, 2))
    else:
        centre = told["geom_xpos"][:, _moving(episode["world"])].mean(1)
    return told | {"look": centre * (1, 1, 0) + (0, 0, 0.6), "camera": (4.0, -15.0, 90.0)}


def _limbs(episode: dict) -> tuple[np.ndarray, np.ndarray]:
    """The robot's geoms as capsules: ends (T, k, 2, 3) and radii (k,)."""
    world, geoms = episode["world"], _moving(episode["world"])
    upright = episode["geom_xmat"][:, geoms].reshape(-1, len(geoms), 3, 3)[..., 2]
    axes = upright * world.geom_size[geoms, 1, None]
    centres = episode["geom_xpos"][:, geoms]
    return np.stack([centres - axes, centres + axes], 2), world.geom_size[geoms, 0]


def _moving(world: mujoco.MjModel) -> np.ndarray:
    """Geoms of the robot: those of the body tree that holds the first joint."""
    root = world.body_rootid[world.jnt_bodyid[0]] if world.njnt else 0
    return np.flatnonzero(world.body_rootid[world.geom_bodyid] == root)


def _flipped_through(pictures: np.ndarray, shown, episode: dict, title: str) -> animation.FuncAnimation:
    """An animation of the pictures, with the return and cost so far above them."""
    height, width = pictures.shape[1:3]
    fig = plt.figure(figsize=(width / 100, height / 100 + 0.25), dpi=100)
    fig.set_layout_engine("none")
    axis = fig.add_axes((0, 0, 1, height / (height + 25)))
    axis.set_axis_off()
    picture = axis.imshow(pictures[0])
    return _moved(axis, lambda k: picture.set_data(pictures[k]), shown, episode, title)


def _counted(episode: dict, shown: np.ndarray, title: str) -> animation.FuncAnimation:
    """An animation of return and cost so far, for an environment that cannot be seen."""
    _, (axis,) = canvas(4.6, 2.6)
    sums = {"return": np.cumsum(episode["reward"]), "cost": np.cumsum(episode["cost"])}
    lines = {name: axis.plot(so_far, label=name)[0] for name, so_far in sums.items()}
    axis.legend()
    axis.set_xlabel("step")

    def draw(k: int) -> None:
        for name, line in lines.items():
            line.set_data(np.arange(shown[k] + 1), sums[name][: shown[k] + 1])

    return _moved(axis, draw, shown, episode, title)


def _moved(axis, draw, shown: np.ndarray, episode: dict, title: str) -> animation.FuncAnimation:
    caption = axis.set_title(" ", loc="left", fontsize=8)
    reward, cost = np.cumsum(episode["reward"]), np.cumsum(episode["cost"])

    def update(k: int):
        draw(k)
        so_far = f"step {shown[k] + 1}, return {reward[shown[k]]:.1f}, cost {cost[shown[k]]:.0f}"
        caption.set_text(f"{title}: {so_far}")
        return ()

    return animated(axis.figure, update, len(shown), interval=60)
