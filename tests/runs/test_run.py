"""What a run says of itself: from a sealed checkpoint alone, read-only, and of no repository but the package's own."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import shapo
from shapo.runs.shipped import data_folder
from shapo.runs.store import ROOT, CorruptCheckpointError, load_checkpoint, runs_folder, save_checkpoint

SMALL = shapo.Config(
    total_steps=1200, steps_per_epoch=400, num_envs=4, minibatch_size=100, hidden_sizes=(8,), critic_passes=1
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return shapo.train(SMALL, runs=tmp_path_factory.mktemp("store"), progress=False)


def stopped(trained, folder, epochs=2):
    """A run of SMALL that stands after two of its epochs."""
    short = shapo.train(replace(SMALL, total_steps=400 * epochs), runs=folder / "short", progress=False)
    run = shapo.Run(SMALL, folder / "runs")
    run.path.mkdir(parents=True)
    arrays, meta = load_checkpoint(short.checkpoint)
    save_checkpoint(run.checkpoint, arrays, meta | SMALL.identity)
    return run


def test_editing_what_a_run_hands_out_trains_nothing_on(trained, tmp_path):
    run = stopped(trained, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        run.networks["actor/theta"] += 1
    run.networks["actor/theta"] = np.zeros(3)
    run.provenance.append("mine")
    run.load()[1]["algorithm"].update(lagrangian_multiplier=7.0)
    run.progress.kl.to_numpy(copy=True)[:] = 7.0
    shapo.train(SMALL, runs=run.folder, progress=False)
    assert run.progress.equals(trained.progress) and run.episodes.equals(trained.episodes)
    for name, array in trained.networks.items():
        assert name.startswith("timing:") or run.networks[name].tobytes() == array.tobytes()
    assert run.provenance == trained.provenance


CRAFTED = {
    "epoch 99": lambda arrays, meta: meta.update(epoch=99),
    "an epoch that is done": lambda arrays, meta: meta.update(epoch=3),
    "an epoch of text": lambda arrays, meta: meta.update(epoch="2"),
    "an epoch that is true": lambda arrays, meta: meta.update(epoch=True),
    "no epoch": lambda arrays, meta: meta.pop("epoch"),
    "no provenance": lambda arrays, meta: meta.pop("provenance"),
    "no identity": lambda arrays, meta: meta.pop("config"),
    "no progress": lambda arrays, meta: [
        arrays.pop(name) for name in [*arrays] if name.startswith("progress:")
    ],
    "half the progress": lambda arrays, meta: arrays.update({"progress:kl": arrays["progress:kl"][:1]}),
    "no networks": lambda arrays, meta: arrays.pop("actor/theta"),
    "networks of text": lambda arrays, meta: arrays.update({"actor/theta": np.array(["a", "b"])}),
    "networks of whole numbers": lambda arrays, meta: arrays.update({"actor/theta": np.zeros(7, int)}),
    "small networks": lambda arrays, meta: arrays.update({"actor/theta": arrays["actor/theta"][:5]}),
    "no generator": lambda arrays, meta: meta.pop("action_rng"),
    "a generator of text": lambda arrays, meta: meta.update(action_rng="PCG64"),
    "a multiplier that is no number": lambda arrays, meta: meta["algorithm"].update(
        lagrangian_multiplier=np.nan
    ),
    "a multiplier of text": lambda arrays, meta: meta["algorithm"].update(lagrangian_multiplier="1"),
    "costs of one number": lambda arrays, meta: meta["algorithm"].update(costs=1.0),
    "a cost that is no number": lambda arrays, meta: meta["algorithm"].update(costs=[0.0, np.nan]),
    "a cost of text": lambda arrays, meta: meta["algorithm"].update(costs=["0"]),
    "no state of the algorithm": lambda arrays, meta: meta.update(algorithm=[]),
    "a total that is missing": lambda arrays, meta: meta["totals"].pop("failures"),
    "a total below 0": lambda arrays, meta: meta["totals"].update(failures=-1),
    "a total of text": lambda arrays, meta: meta["totals"].update(total_cost="3"),
    "networks that are no numbers": lambda arrays, meta: arrays.update(
        {"actor/theta": arrays["actor/theta"] * np.nan}
    ),
    "fewer observations": lambda arrays, meta: arrays.update(observation=arrays["observation"][:1]),
    "no episodes under way": lambda arrays, meta: arrays.pop("running"),
}


@pytest.mark.parametrize("craft", CRAFTED)
def test_a_sealed_but_crafted_checkpoint_is_told(trained, tmp_path, craft):
    run = stopped(trained, tmp_path)
    arrays, meta = load_checkpoint(run.checkpoint)
    CRAFTED[craft](arrays, meta)
    save_checkpoint(run.checkpoint, arrays, meta)
    before = run.checkpoint.read_bytes()
    with pytest.raises(CorruptCheckpointError, match=r"checkpoint was not loaded: .*move it away"):
        shapo.train(SMALL, runs=run.folder, progress=False)
    assert run.checkpoint.read_bytes() == before


@pytest.mark.parametrize("body", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_sealed_file_that_is_no_archive_is_told(tmp_path, body):
    run = shapo.Run(SMALL, tmp_path)
    run.path.mkdir(parents=True)
    run.checkpoint.write_bytes(
        b"shapo-checkpoint-1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    )
    for look in (lambda: run.epoch, lambda: run.progress, lambda: run.actor):
        with pytest.raises(CorruptCheckpointError, match="was not loaded"):
            look()


def told(package: Path, code: str, cwd: Path, **environment) -> str:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("SHAPO_", "GIT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=bare | {"PYTHONPATH": str(package)} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


COMMIT = "from shapo.runs.run import provenance; print(provenance()['commit'])"


@pytest.fixture
def foreign(tmp_path):
    """Somebody else's repository, with a commit."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\n')
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("place", [".", "vendor", "env/lib/python3/site-packages", "copy with its pyproject"])
def test_provenance_never_names_a_foreign_repository(foreign, place):
    package = foreign / place
    shutil.copytree(ROOT / "shapo", package / "shapo", ignore=shutil.ignore_patterns("__pycache__"))
    if "pyproject" in place:
        shutil.copy(ROOT / "pyproject.toml", package)
    assert told(package, COMMIT, foreign) == ""


def test_the_environment_names_no_other_repository(foreign):
    git = {"GIT_DIR": str(foreign / ".git"), "GIT_WORK_TREE": str(foreign)}
    here = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert told(ROOT, COMMIT, foreign, **git).removesuffix("-dirty") == here


def test_an_installed_package_writes_where_the_user_is(foreign, tmp_path):
    package = foreign / "env" / "site-packages"
    shutil.copytree(ROOT / "shapo", package / "shapo", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from shapo.runs import shipped, store; from shapo.figures import ROOT\n"
        "print(store.runs_folder(), shipped.data_folder(), ROOT)"
    )
    expected = [tmp_path / "runs", tmp_path / "figures" / "data", tmp_path]
    assert told(package, code, tmp_path).split() == [str(path) for path in expected]


def test_no_test_sees_the_users_own_files():
    """The README's two commands, one after the other in one clone: what the first leaves, the second must not find."""
    code = "from shapo.runs import shipped, store; print(store.runs_folder(), shipped.data_folder())"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown == [str(runs_folder()), str(data_folder())]
    assert not any(Path(folder).is_relative_to(ROOT) for folder in shown)
    assert (data_folder() / "robots-laptop" / "SHA256SUMS").exists()
