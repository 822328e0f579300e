"""The ground as DFlex has it, on which SHAC and SHAC-ASAM were published: a force without a jump.

Newton's damping sets in with all its force where a foot touches: at 1 m/s, 1 kN at depth 0. A derivative does not see
a jump, so over a window of 32 steps the gradient of what a policy earns is wrong, even in sign. DFlex's damping grows
with the depth, and its friction is limited by the spring alone (`eval_rigid_contacts_art` of DiffRL's dflex/sim.py).
"""

from __future__ import annotations

from shapo.differentiable.gradient_fix import solver_featherstone, wp


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
    """Adds the force of the ground z = 0 on a sphere (its centre `point`, in its body's frame) to its body's.

    f_n = d (k_e + k_d max(−v_z, 0)) at depth d;  f_t = −k_f v_t, of at most μ k_e d

    Called as Newton's `eval_body_contact`, which it replaces; what it has no use for is not read.
    """
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
    # No root where there is little slip: its derivative would be infinite at rest.
    if wp.dot(slip, slip) * drag * drag > mu[material] * mu[material] * spring * spring:
        drag = mu[material] * spring / wp.length(slip)
    force = (spring + damper) * up - drag * slip
    wp.atomic_add(body_f, body, wp.spatial_vector(force, wp.cross(arm, force)))


solver_featherstone.eval_body_contact = ground_contact
