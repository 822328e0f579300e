"""The mass matrix H = JᵀMJ of a robot, without the zeros, on which a control step spends most of its time otherwise.

Newton forms P = MJ and H = JᵀP by dense products. But M holds one 6 × 6 block of inertia for each body and nothing
else, and H is symmetric, of which half is enough.
"""

from __future__ import annotations

from shapo.differentiable.gradient_fix import solver_featherstone, wp


@wp.kernel
def mass_matrix_product(
    rows: wp.array[int], columns: wp.array[int], inner: wp.array[int], transpose_A: bool, transpose_B: bool,
    A_start: wp.array[int], B_start: wp.array[int], C_start: wp.array[int],
    A: wp.array[float], B: wp.array[float],
    C: wp.array[float],
):  # fmt: skip
    """C = AᵀB where `transpose_A`, and known to be symmetric; else C = AB with A in 6 × 6 blocks on the diagonal.

    Called as Newton's `eval_dense_gemm_batched`, which it replaces: a thread per robot, matrices row by row.
    """
    robot = wp.tid()
    m, n, p = rows[robot], columns[robot], inner[robot]
    a, b, c = A_start[robot], B_start[robot], C_start[robot]
    for i in range(m):
        if transpose_A:
            for j in range(i + 1):
                total = float(0.0)  # noqa: UP018  how Warp declares a variable
                for k in range(p):
                    total += A[a + k * m + i] * B[b + k * n + j]
                C[c + i * n + j] = total
                if j < i:
                    C[c + j * n + i] = total
        else:
            block = 6 * (i / 6)
            for j in range(n):
                total = float(0.0)  # noqa: UP018
                for k in range(block, block + 6):
                    total += A[a + i * p + k] * B[b + k * n + j]
                C[c + i * n + j] = total


solver_featherstone.eval_dense_gemm_batched = mass_matrix_product
