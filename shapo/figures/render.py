"""Pictures of a world by MuJoCo's renderer, in a program of its own because a graphics driver may end its process.

MUJOCO_GL=egl python render.py episode.npz world.mjb frames.npy
"""

import sys

import mujoco
import numpy as np


def pictures(told, model: mujoco.MjModel) -> np.ndarray:
    """Pictures (T, height, width, 3) of the model's geoms at the poses in `told`, and of its discs or robot's limbs."""
    data, height, width = mujoco.MjData(model), *told["size"]
    mujoco.mj_forward(model, data)
    model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = 0.35, 0.5
    camera, option = mujoco.MjvCamera(), mujoco.MjvOption()
    option.geomgroup[:] = 1  # all groups, also what the agent must not touch
    frames = np.empty((len(told["look"]), height, width, 3), np.uint8)
    camera.distance, camera.elevation, camera.azimuth = told["camera"]
    with mujoco.Renderer(model, height, width, max_geom=model.ngeom + told["radii"].size + 100) as renderer:
        for t, frame in enumerate(frames):
            data.geom_xpos[:], data.geom_xmat[:] = told["geom_xpos"][t], told["geom_xmat"][t]
            camera.lookat[:] = told["look"][t]
            renderer.update_scene(data, camera, option)
            scene = renderer.scene
            scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False  # it takes a quarter of the time
            for kind, radius, colour, (a, b) in zip(
                told["kinds"], told["radii"], told["colours"], told["ends"][t], strict=True
            ):
                geom = scene.geoms[scene.ngeom]
                mujoco.mjv_initGeom(
                    geom, kind, np.zeros(3), np.zeros(3), np.zeros(9), colour.astype(np.float32)
                )
                mujoco.mjv_connector(
                    geom, kind, radius, a.astype(float), b + np.array([0, 0, 1e-4])
                )  # a sphere needs a length too
                scene.ngeom += 1
            frame[:] = renderer.render()
    return frames


if __name__ == "__main__":
    np.save(sys.argv[3], pictures(np.load(sys.argv[1]), mujoco.MjModel.from_binary_path(sys.argv[2])))
