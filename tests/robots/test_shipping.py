"""Robots' results as they ship: tables and policies come back from a pack, and training again gives the same."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import shapo
from shapo.experiments import robots
from shapo.experiments import safety as experiments
from shapo.experiments.__main__ import main
from shapo.figures.style import LOOKS
from shapo.robots import PPO, SHAC, RobotConfig
from shapo.runs.packing import pack
from shapo.runs.shipped import CorruptPackError, listing
from shapo.runs.verify import verify
from shapo.sharpness import AdaptiveSAM

SMALL = SHAC(horizon=4, actor_hidden_sizes=(16,), critic_hidden_sizes=(16,), critic_passes=1)
CONFIGS = [
    RobotConfig("DiffAnt", SMALL, AdaptiveSAM(0.5), iterations=2, num_envs=4),
    RobotConfig("DiffAnt", PPO(horizon=4, passes=1, minibatches=2), iterations=2, num_envs=4),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run store and a pack of it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHAPO_DATA", str(folder / "data"))
        pack(shapo.Study("robots", CONFIGS, runs=folder / "store").run(progress=False))
    return folder


@pytest.fixture
def store(trained, tmp_path, monkeypatch):
    """The run store, in a copy of both that a test may write to."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "data"))
    return tmp_path / "store"


def test_policies_ship(store, tmp_path):
    observation = torch.randn(5, 37)
    for config in CONFIGS:
        own, shipped = shapo.Run(config, store), shapo.Run(config, tmp_path / "empty")
        assert torch.equal(shipped.actor(observation), own.actor(observation))
        assert shipped.progress.equals(own.progress)
        assert len(shipped.networks) < len(own.networks)  # no moments of Adam, no environments
    before = (tmp_path / "data" / "robots" / "networks.parquet").read_bytes()
    pack(shapo.Study("robots", CONFIGS, runs=tmp_path / "empty"))  # what is only shipped stays
    assert (tmp_path / "data" / "robots" / "networks.parquet").read_bytes() == before
    assert [verdict.outcome for verdict in verify(None)] == ["identical"] * 2


def test_another_policy_in_a_pack_is_found(store, tmp_path):
    path = tmp_path / "data" / "robots" / "networks.parquet"
    table = pq.read_table(path).to_pandas()
    row = table.index[(table.name == "theta")][0]
    table.at[row, "bytes"] = (np.frombuffer(table.at[row, "bytes"], np.float32) * 1.5).tobytes()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)
    files = {file.stem: file.read_bytes() for file in path.parent.glob("*.parquet")}
    (path.parent / "SHA256SUMS").write_text(listing(files))  # forged, not damaged
    assert sorted(verdict.outcome for verdict in verify(None)) == ["edited", "identical"]


def test_damaged_networks_are_named(store, tmp_path):
    path = tmp_path / "data" / "robots" / "networks.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptPackError, match=r"networks\.parquet was not read"):
        _ = shapo.Run(CONFIGS[0], tmp_path / "empty").actor


def test_the_command_line_finds_the_robots(monkeypatch, capsys):
    monkeypatch.delenv("SHAPO_DATA", raising=False)  # the folder that ships; what is refused writes nothing
    asked = []
    monkeypatch.setattr(
        robots, "study", lambda *arguments: asked.append(arguments) or experiments.study("pareto", "smoke")
    )
    assert main(["pack", "robots", "--profile", "smoke"]) == 2  # no results, which is told
    assert asked == [("robots", "smoke")] and "smoke profile" in capsys.readouterr().err


def test_every_profile_builds_every_experiment():
    for profile in ("smoke", "laptop", "paper"):
        for name in robots.EXPERIMENTS:
            experiment = robots.EXPERIMENTS[name](profile)
            configs = [config for configs in experiment.values() for config in configs]
            assert len(robots.study(name, profile).runs) == len(configs) >= 2  # no two are the same
            assert {algorithm for _, algorithm in experiment} <= set(LOOKS)
        few = robots.shac_asam(profile)["DiffAnt", "SHAC-ASAM, ρ = 0.75, few robots"]
        assert {(config.ascent_envs, config.num_envs) for config in few} <= {(1, 4), (8, 64)}
    with pytest.raises(ValueError, match="name must be one of shac, "):
        robots.study("shaq", "smoke")
