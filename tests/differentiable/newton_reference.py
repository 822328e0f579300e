"""Newton, quietly, in the one version that was tested, with the gradient of its contact forces put right.

In Newton 1.8.0 the kernel `eval_rigid_tau` overwrites the external force on a body with the same force in another
frame. Warp's backward pass then reads the overwritten one, with the wrong sign: an error of 6 % over eight control
steps. Nothing else reads the overwritten value, so the corrected kernel is the installed one without that line.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import linecache
import re

VERSIONS = {"newton": "1.8.0", "warp-lang": "1.19.0"}
OVERWRITES = "        body_f_ext[child] = f_ext\n"


def check_versions() -> None:
    """Raises ImportError where Newton or Warp is missing or of another version, whose gradients nobody has checked."""
    found = {}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    if found != VERSIONS:
        wanted = " ".join(f"{package}=={version}" for package, version in VERSIONS.items())
        here = ", ".join(f"{package} {version}" for package, version in found.items())
        raise ImportError(
            f"the differentiable simulator corrects a gradient in Newton's own source, so it needs just the version it "
            f"was tested with: pip install {wanted} (found {here})"
        )


check_versions()

import warp as wp  # noqa: E402

wp.config.log_level = wp.LOG_ERROR  # no banner, no word about CUDA

import newton  # noqa: E402
from newton._src.solvers.featherstone import kernels, solver_featherstone  # noqa: E402

__all__ = ["newton", "solver_featherstone", "wp"]


def _corrected_tau() -> wp.Kernel:
    """`eval_rigid_tau` without the line that overwrites. Raises ImportError where the source is not as expected."""
    source = inspect.getsource(kernels.eval_rigid_tau.func)
    if source.count(OVERWRITES) != 1:
        raise ImportError(
            f"newton {VERSIONS['newton']} was edited: its kernel eval_rigid_tau has no single line "
            f"{OVERWRITES.strip()!r}, without which its gradients are right; reinstall it"
        )
    source = re.sub("def eval_rigid_tau", "def eval_rigid_tau_corrected", source.replace(OVERWRITES, ""))
    filename = "<eval_rigid_tau without the overwritten force>"
    # Warp reads the source of a kernel to translate it; this one has no file.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    names = vars(kernels) | {"__name__": __name__}
    exec(compile(source, filename, "exec"), names)
    return names["eval_rigid_tau_corrected"]


solver_featherstone.eval_rigid_tau = _corrected_tau()
