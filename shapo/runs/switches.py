"""PyTorch's global switches, set for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """Sets PyTorch's global switches to its defaults inside, so that no run depends on what its user set."""
    dtype, matmul = torch.get_default_dtype(), torch.backends.mkldnn.matmul  # the processor's
    precision = matmul.fp32_precision
    # PyTorch's device context slows every call, so it is entered only where it is needed.
    device = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with (
        device, torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False),
        flushing_subnormals(False),
    ):  # fmt: skip
        try:
            torch.set_default_dtype(torch.float32)
            matmul.fp32_precision = "ieee"
            yield
        finally:
            torch.set_default_dtype(dtype)
            matmul.fp32_precision = precision


@contextmanager
def flushing_subnormals(flush: bool = True) -> Iterator[None]:
    """Makes numbers below 1e-38 count as 0 on this thread, or not; then as before, which PyTorch does not tell."""
    before = bool(torch.tensor(2e-38, dtype=torch.float32, device="cpu") / 4 == 0)
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
