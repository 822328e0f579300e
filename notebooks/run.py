"""Run the notebooks: `python -m notebooks.run --profile smoke --only 01,03 --jobs 2 -p seed 1`.

Each notebook is executed by papermill in a kernel of its own, with one thread. Its `.ipynb` and an `.html`
that needs no network go to `runs/notebooks/<profile>/`, whole or not at all. A failing notebook is reported
with its cell and traceback, the others still run, and the exit status is 1; a mistake on the command line
is 2 and starts nothing. The command line is read with the standard library only, because `run_all.sh` has it
checked before anything is installed.
"""

import argparse
import ast
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMOKE = (
    "> **Profile smoke: tiny runs that prove the pipeline. Nothing below is a result, nothing is claimed.**"
)
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How one notebook went: `failure` is empty, or tells cell and traceback."""

    name: str
    failure: str
    seconds: float


def declared_parameters(path: Path) -> dict[str, Any]:
    """The names and defaults in the cell tagged `parameters`; ValueError where they are no literals."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" not in cell["metadata"].get("tags", []):
            continue
        try:
            statements = ast.parse("".join(cell["source"])).body
            return {node.targets[0].id: ast.literal_eval(node.value) for node in statements}
        except (AttributeError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{path.name}: the parameters cell takes only lines `name = literal` ({error})"
            ) from error
    return {}


def parameter_value(name: str, text: str, default: Any) -> Any:
    """The text of the command line as a value of the default's type; ValueError where it is none."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(
            f"parameter {name} is of type {type(default).__name__}, such as {default!r}, and not {text!r}"
        )
    return value


def choose(folder: Path, only: str | None) -> list[Path]:
    """The notebooks `NN_name.ipynb` of the folder, in order, or those whose numbers `only` lists."""
    paths = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if only is None:
        return list(paths.values())
    numbers = {number.strip().zfill(2) for number in only.split(",")}
    if unknown := sorted(numbers - paths.keys()):
        raise ValueError(f"no notebook {', '.join(unknown)}; there are {', '.join(paths)}")
    return [path for number, path in paths.items() if number in numbers]


def with_parameters(path: Path, profile: str, given: dict[str, str]) -> dict[str, Any]:
    """The parameters for one notebook; ValueError where it does not declare one of them."""
    declared = declared_parameters(path)
    if unknown := sorted({"profile", *given} - declared.keys()):
        raise ValueError(
            f"{path.name} declares no parameter {', '.join(unknown)}; it has "
            f"{', '.join(declared) or 'none'} (--only restricts a parameter to the notebooks that have it)"
        )
    return {"profile": profile} | {
        name: parameter_value(name, text, declared[name]) for name, text in given.items()
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; a mistake in it prints what is accepted and exits with status 2.

    `notebooks` of the result: each with the parameters papermill hands it.
    """
    profiles = runpy.run_path(str(ROOT / "shapo" / "experiments" / "profiles.py"))["PROFILES"]
    parser = argparse.ArgumentParser(
        prog="notebooks.run", allow_abbrev=False, description="Run the notebooks."
    )
    parser.add_argument("--profile", default="smoke", choices=list(profiles), help="how much to compute")
    parser.add_argument("--only", metavar="01,03", help="only these notebooks, by number")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks at a time; 0: one per core"
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], dest="given", metavar=("NAME", "VALUE"))
    parser.add_argument(
        "--changed", action="store_true", help="only those that have not passed since a file changed"
    )
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", help="the folder they are in")
    parser.add_argument("--output", type=Path, help="where results go (default: runs/notebooks/<profile>)")
    parser.add_argument("--check", action="store_true", help="only check this command line")
    plan = parser.parse_args(arguments)
    given = dict(plan.given)
    try:
        if plan.jobs < 0:
            raise ValueError(f"--jobs takes a number of notebooks, or 0 for one per core, not {plan.jobs}")
        if "profile" in given:
            raise ValueError("the profile is chosen by --profile, not by -p")
        paths = choose(plan.notebooks, plan.only)
        if not paths:
            raise ValueError(f"no notebooks NN_name.ipynb in {plan.notebooks}")
        plan.notebooks = {path: with_parameters(path, plan.profile, given) for path in paths}
    except ValueError as error:
        parser.error(str(error))
    plan.output = (plan.output or ROOT / "runs" / "notebooks" / plan.profile).resolve()
    plan.jobs = min(plan.jobs or os.cpu_count() or 1, len(plan.notebooks))
    return plan


def last_change() -> float:
    """When a file last changed of those git knows or would add, in seconds since 1970; ∞ where git does not say."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return float("inf")
    paths = [ROOT / name for name in names.split("\0") if name]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=float("inf"))


def passed_since(moment: float, executed: Path, parameters: dict[str, Any]) -> bool:
    """Whether the executed notebook was started after that moment, with these parameters, and passed."""
    try:
        record = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["papermill"]
        started = datetime.fromisoformat(record["start_time"]).timestamp()
        return started > moment and record["parameters"] == parameters and record["exception"] is False
    except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours
        return False


def execute(path: Path, parameters: dict[str, Any], output: Path, progress: dict[str, Any]) -> Outcome:
    """Execute one notebook, and put its `.ipynb` and `.html` in place even when it fails."""
    import nbformat
    from papermill import execute_notebook
    from traitlets.config import Config

    from notebooks.page import to_html

    start, failure, smoke = time.monotonic(), "", parameters["profile"] == "smoke"
    partial, page = output / f".{path.stem}.partial.ipynb", output / f".{path.stem}.partial.html"
    partial.unlink(missing_ok=True)
    # Sockets in a folder of its own: kernels that are started together would race for the same TCP ports.
    try:
        with TemporaryDirectory(prefix="shapo-") as sockets:
            execute_notebook(
                path,
                partial,
                parameters,
                progress_bar=progress,
                start_timeout=300,
                execution_timeout=900 if smoke else None,  # of a cell: a hang must end
                coalesce_streams=True,  # a progress bar leaves its last line, not one for every update
                resources={"metadata": {"path": str(path.parent)}},  # the working directory, as in JupyterLab
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
    except Exception as problem:  # whatever stops one notebook must not stop the others
        failure = f"{type(problem).__name__}: {problem}"
    if partial.exists():
        executed = nbformat.read(partial, 4)
        if failure:
            started = [c.id for c in executed.cells if c.metadata.get("papermill", {}).get("start_time")]
            failure = f"cell {started[-1]!r}: {failure}" if started else failure
        # Papermill does not record that a kernel died.
        executed.metadata.papermill.exception = bool(failure)
        if smoke:
            executed.cells.insert(1, nbformat.v4.new_markdown_cell(SMOKE, id="smoke"))  # below the title
        nbformat.write(executed, partial)
        page.write_text(to_html(executed, title=path.stem), encoding="utf-8")
        page.replace(output / f"{path.stem}.html")
        partial.replace(output / f"{path.stem}.ipynb")
    return Outcome(path.stem, failure, time.monotonic() - start)


def memory_in_use() -> int:
    """Resident bytes of everything this process started: kernels and the processes they start."""
    import psutil

    total = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended since it was listed
            total += child.memory_info().rss
    return total


def stop_all(output: Path) -> None:
    """After an interrupt: end the kernels and what they started, leave nothing half written, and go."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    for partial in output.glob(".*.partial.*"):
        partial.unlink()
    print("\nInterrupted.", file=sys.stderr, flush=True)
    os._exit(130)


def run(plan: argparse.Namespace) -> list[Outcome]:
    """Execute every notebook of the plan, `jobs` at a time, and show how far each is."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()  # a log gets lines, a terminal gets bars as well

    def one(path: Path, parameters: dict[str, Any]) -> Outcome:
        tqdm.write(f"running {path.stem}")
        return execute(path, parameters, plan.output, {"desc": path.stem, "leave": False, "disable": quiet})

    pool, outcomes, peak = ThreadPoolExecutor(plan.jobs), [], 0
    with tqdm(total=len(plan.notebooks), desc="notebooks", unit="", disable=quiet) as overall:
        # The long ones are among the last, and a long one begun last would keep one core busy and the others idle.
        order = list(plan.notebooks.items())[:: -1 if plan.jobs > 1 else 1]
        pending = {pool.submit(one, *item) for item in order}
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            peak = max(peak, memory_in_use())
            for outcome in (future.result() for future in done):
                outcomes.append(outcome)
                overall.update()
                failed = f"FAILED {outcome.name} in {outcome.failure}"
                tqdm.write(failed if outcome.failure else f"passed {outcome.name}")
    print(f"\nPeak memory of the notebooks running together: {peak / 2**20:.0f} MB")
    return sorted(outcomes, key=lambda outcome: outcome.name)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    plan = parse(arguments)
    if plan.check:
        return 0
    from filelock import FileLock, Timeout

    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    if plan.changed:
        moment = last_change()
        for path, parameters in list(plan.notebooks.items()):
            if passed_since(moment, plan.output / path.name, parameters):
                print(f"not run again: {path.stem} has passed since the last change of a file")
                del plan.notebooks[path]
        if not plan.notebooks:
            return 0
    cores = str(max(1, (os.cpu_count() or 1) // plan.jobs))  # for each notebook's studies
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", cores)
    os.environ.setdefault("SHAPO_FIGURES", str(ROOT / "figures"))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one of the user's
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.output / ".lock", timeout=0):
            outcomes = run(plan)
    except Timeout:
        print(f"Another run is writing to {plan.output}; wait for it or stop it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        stop_all(plan.output)
    print(f"Results are in {plan.output}\n\n{'notebook':<28}{'result':<8}{'minutes':>8}")
    for outcome in outcomes:
        print(f"{outcome.name:<28}{'FAILED' if outcome.failure else 'passed':<8}{outcome.seconds / 60:>8.1f}")
    return int(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
