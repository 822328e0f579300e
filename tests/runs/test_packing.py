"""Packs on real runs, made small: exact, whole or not there, and verified by training again."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import shapo
from shapo.experiments import robots, safety
from shapo.experiments.__main__ import main
from shapo.runs import shipped
from shapo.runs.identity import config_from, describe
from shapo.runs.packing import pack
from shapo.runs.shipped import CorruptPackError, digest
from shapo.runs.store import ROOT, lock_of
from shapo.runs.verify import Verdict, difference, exit_status, verify

SMALL = shapo.Config(
    total_steps=2400, steps_per_epoch=800, num_envs=2, minibatch_size=100, hidden_sizes=(8,), critic_passes=1
)
CONFIGS = [
    SMALL,
    replace(SMALL, actor=shapo.FisherSAM(0.001), critic=shapo.EuclideanSAM(0.05)),  # more columns of progress
    replace(SMALL, task="Walker2d-v4", algorithm="CRPO", total_steps=1600),  # no multiplier, many episodes
    replace(SMALL, seed=1, total_steps=800),  # no episode ends
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A run store in which CONFIGS are finished."""
    folder = tmp_path_factory.mktemp("store")
    for config in CONFIGS:
        shapo.train(config, runs=folder, progress=False)
    return folder


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """An empty folder for packs."""
    monkeypatch.setenv("SHAPO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def study(store, name="small", configs=CONFIGS):
    return shapo.Study(name, configs, runs=store)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(path, change):
    """Rewrites a parquet file with `change` applied to it as a data frame, and its digest: a forgery, not damage."""
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pandas(change(table.to_pandas()), table.schema, preserve_index=False), path)
    sealed(path.parent)


def sealed(folder):
    files = {file.stem: file.read_bytes() for file in folder.glob("*.parquet")}
    (folder / shipped.SUMS).write_text(shipped.listing(files))


def visible(folder):
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def rounded(episodes):
    columns = ["return", "cost"]
    return episodes.assign(**{c: episodes[c].astype("float32").astype(episodes[c].dtype) for c in columns})


def test_what_is_packed_comes_back_where_the_store_has_nothing(store, data, tmp_path):
    assert len(pack(study(store))) == 4
    for config in CONFIGS:
        run, own = shapo.Run(config, tmp_path / "empty"), shapo.Run(config, store)
        assert run.shipped and run.available and not run.finished and not run.exists
        pd.testing.assert_frame_equal(run.progress, own.progress, check_exact=True)
        exact = own.episodes.astype({"return": float, "cost": float}) if len(own.episodes) else own.episodes
        pd.testing.assert_frame_equal(run.episodes, rounded(exact), check_exact=True)
        assert list(run.timing.columns) == list(own.timing.columns)
        assert (run.timing.iloc[0] == own.timing.median()).all() and len(run.timing) == 1
        assert run.provenance == own.provenance
    assert (
        "kl_down" not in shapo.Run(SMALL, tmp_path).progress
        and len(shapo.Run(CONFIGS[3], tmp_path).episodes) == 0
    )
    assert shapo.Run(CONFIGS[2], tmp_path).progress.lagrangian_multiplier.isna().all()
    assert "shipped" in repr(shapo.Run(SMALL, tmp_path))


def test_the_digests_are_those_of_the_csv_files_of_the_run_store(store, data):
    pack(study(store))
    rows = pd.read_parquet(data / "small" / "runs.parquet").set_index("run_id")
    assert list(rows.reset_index()) == list(shipped.COLUMNS)
    for config in CONFIGS:
        run, row = shapo.Run(config, store), rows.loc[config.run_id]
        for name in ("progress", "episodes"):
            file = (run.path / f"{name}.csv").read_bytes()
            assert row[f"{name}_sha256"] == hashlib.sha256(file).hexdigest() == digest(getattr(run, name))
        assert config_from(json.loads(row.config)) == config.resolved and row["name"] == run.path.name
    progress = pd.read_parquet(data / "small" / "progress.parquet")
    assert list(progress)[:3] == ["run_id", "epoch", "steps"] and len(progress) == 3 + 3 + 2 + 1


def test_packing_again_gives_the_same_bytes(store, data, tmp_path):
    pack(study(store))
    before = contents(data / "small")
    pack(study(store))
    assert contents(data / "small") == before
    pack(study(tmp_path / "empty"))  # all from the pack itself
    assert contents(data / "small") == before
    assert visible(data) == ["small"]


def test_the_users_own_finished_run_speaks_for_itself(store, data, monkeypatch):
    pack(study(store))
    own = shapo.Run(SMALL, store)
    assert own.finished and own.shipped and own.pack is None and len(own.timing) == 3
    assert own.actor(np.zeros((1, 60))).shape == (1, 2)
    edit(data / "small" / "progress.parquet", lambda table: table.assign(kl=table.kl + 1))
    assert own.progress.kl.max() < 1 < shapo.Run(SMALL, data).progress.kl.min()


def test_a_run_begun_here_shows_what_is_shipped_until_it_is_finished(store, data, tmp_path, monkeypatch):
    epochs = shapo.algorithms.trainer.Trainer.run_epoch
    monkeypatch.setattr(
        shapo.algorithms.trainer.Trainer, "run_epoch", lambda self: 1 / 0 if self.epoch else epochs(self)
    )
    with pytest.raises(ZeroDivisionError):
        shapo.train(SMALL, runs=tmp_path, progress=False)
    run = shapo.Run(SMALL, tmp_path)
    assert run.epoch == 1 and len(run.progress) == 1 and not run.available
    pack(study(store))
    assert run.epoch == 1 and len(run.progress) == 3 and run.available and not run.finished
    with pytest.raises(FileNotFoundError, match=r"without its networks; shapo.train\(run.config\) trains it"):
        _ = run.actor
    monkeypatch.setattr(shapo.algorithms.trainer.Trainer, "run_epoch", epochs)
    assert shapo.train(SMALL, runs=tmp_path, progress=False).finished and run.actor
    assert digest(run.progress) == digest(shapo.Run(SMALL, store).progress)


def test_a_pack_is_seen_as_soon_as_it_is_there(store, data, tmp_path):
    run = shapo.Run(SMALL, tmp_path)
    assert not run.shipped and run.progress.empty
    pack(study(store, configs=CONFIGS[:1]))
    assert run.shipped and len(run.progress) == 3
    assert not shapo.Run(CONFIGS[1], tmp_path).shipped


def test_an_unfinished_study_is_refused_or_packed_in_part(store, data):
    more = study(store, configs=[*CONFIGS, replace(SMALL, seed=7)])
    with pytest.raises(ValueError, match=r"not finished: study.run\(\) trains.*\n.*PIDLag-seed7-"):
        pack(more)
    assert not data.exists()
    assert len(pack(more, partial=True)) == 4
    with pytest.raises(ValueError, match="nothing to pack"):
        pack(study(store, configs=[replace(SMALL, seed=7)], name="other"), partial=True)


def test_a_pack_is_not_replaced_by_one_that_lacks_its_runs(store, data):
    pack(study(store))
    before = contents(data / "small")
    with pytest.raises(ValueError, match=r"holds 3 runs that study small does not have.*replace=True"):
        pack(study(store, configs=CONFIGS[:1]))
    assert contents(data / "small") == before
    assert len(pack(study(store, configs=CONFIGS[:1]), replace=True)) == 1
    assert len(pd.read_parquet(data / "small" / "runs.parquet")) == 1


def test_a_run_ships_once(store, data, tmp_path):
    pack(study(store, "first", CONFIGS[:2]))
    assert [run.config for run in pack(study(store, "second"))] == CONFIGS[2:]
    with pytest.raises(ValueError, match="nothing to pack; these hold its runs: first, second"):
        pack(study(store, "third", CONFIGS[1:3]))
    assert all(run.shipped for run in study(tmp_path).runs)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", ".."])
def test_a_name_that_is_no_folder_of_its_own_is_refused(store, data, name):
    with pytest.raises(ValueError, match="plain name"):
        pack(study(store, name))


@pytest.mark.parametrize("at", range(8))
def test_a_packer_killed_at_any_moment_leaves_a_whole_pack(store, data, monkeypatch, at):
    """The old one before SHA256SUMS is replaced, the new one after; the next packer clears up."""
    pack(study(store, configs=CONFIGS[:1]))
    calls = []

    def killed(path, target, replace=os.replace):
        calls.extend([path] if Path(path).parent == data / "small" else [])
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt) if at < 7 else nullcontext():
            pack(study(store))
    found = [run.shipped for run in study(data).runs]
    assert found == ([True] * 4 if at > 3 else [True, False, False, False])
    for run in study(data).runs:
        assert not run.shipped or digest(run.progress) == digest(shapo.Run(run.config, store).progress)
    pack(study(store))
    names = ["SHA256SUMS", "episodes.parquet", "progress.parquet", "runs.parquet"]
    assert sorted(contents(data / "small")) == names and visible(data) == ["small"]


def test_a_full_disk_leaves_the_old_pack(store, data, monkeypatch):
    pack(study(store, configs=CONFIGS[:1]))
    before = contents(data / "small")
    monkeypatch.setattr(
        os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        pack(study(store))
    assert contents(data / "small") == before


def test_one_packer_at_a_time_whoever_it_is(store, data, monkeypatch):
    pack(study(store, configs=CONFIGS[:1]))
    lock = data / ".packs.lock"
    assert lock.stat().st_mode & 0o666 == 0o666  # another user of the folder can hold it too
    with (
        FileLock(lock),
        pytest.raises(TimeoutError, match=r"another process .*packs\.lock\. Nothing was written"),
    ):
        with lock_of(data / "packs", patience=0.1):
            pytest.fail("two at a time")


def test_smoke_runs_are_no_results(store, monkeypatch, capsys):
    """Where results ship they are refused; no other profile has a run in common with smoke's, so none reads theirs."""
    monkeypatch.delenv("SHAPO_DATA")
    for command in (lambda: pack(study(store)), lambda: pack(study(store), ROOT / "figures" / "data")):
        with pytest.raises(
            ValueError, match=r"fewer than 100000 steps .*smoke profile.*SHAPO_DATA names another"
        ):
            command()
    assert main(["pack", "pareto", "--profile", "smoke", "--partial"]) == 2
    assert "smoke profile" in capsys.readouterr().err
    ids = {
        profile: {
            run.config.run_id
            for module in (safety, robots)
            for name in module.EXPERIMENTS
            for run in module.study(name, profile).runs
        }
        for profile in ("smoke", "laptop", "paper")
    }
    assert not ids["smoke"] & (ids["laptop"] | ids["paper"])


def numbers(folder):
    """Everything a pack of CONFIGS gives, from its files."""
    found = []
    for config in CONFIGS:
        run = shapo.Run(config, folder)
        assert run.shipped
        found += [run.progress, run.episodes, run.timing, pd.DataFrame({"p": [str(run.provenance)]})]
    return found


def test_a_flipped_bit_is_never_another_number(store, data, tmp_path):
    pack(study(store))
    rng, whole = np.random.default_rng(0), numbers(tmp_path)
    for path in sorted((data / "small").iterdir()):
        content = path.read_bytes()
        for bit in rng.choice(8 * len(content), 60, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            with pytest.raises(
                CorruptPackError, match=r"small/(\w+\.parquet|SHA256SUMS) was not read"
            ) as error:
                numbers(tmp_path)
            assert path.name in str(error.value) or path.name == shipped.SUMS
        path.write_bytes(content)
    for before, after in zip(whole, numbers(tmp_path), strict=True):
        pd.testing.assert_frame_equal(before, after, check_exact=True)


@pytest.mark.parametrize("name", ["runs.parquet", "progress.parquet", "episodes.parquet", "SHA256SUMS"])
@pytest.mark.parametrize("how", ["truncated", "foreign", "missing", "other columns"])
def test_a_damaged_pack_is_named(store, data, tmp_path, name, how):
    pack(study(store))
    path = data / "small" / name
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "foreign":
        path.write_bytes(b"not a parquet file")
    elif how == "missing":
        path.unlink()
    elif name != shipped.SUMS:
        pq.write_table(pa.table({"run_id": ["x"], "y": [1]}), path)
        sealed(data / "small")
    else:
        path.write_text("0" * 64 + "  other.parquet\n")
    run = shapo.Run(CONFIGS[2], tmp_path)
    with pytest.raises(CorruptPackError, match=r"was not read.*restore the folder small/") as error:
        _ = run.progress, run.episodes
    assert str(path) in str(error.value)
    assert str(path) in repr(run) if name in ("runs.parquet", shipped.SUMS) else "shipped" in repr(run)
    assert shapo.Run(CONFIGS[2], store).finished and len(shapo.Run(CONFIGS[2], store).progress) == 2


def test_what_ships_is_whole_and_small():
    """Every file of every pack is read; packs of older methods too."""
    folder = ROOT / "figures" / "data"
    for found in shipped.packs(folder):
        for run_id in found.rows:
            assert len(found.table("progress", run_id)) and found.provenance(run_id)
            found.table("episodes", run_id), found.networks(run_id)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 30e6


def retrained(**options):
    """The verdicts on all that is shipped, trained again in this process."""
    with ThreadPoolExecutor(1) as executor:
        return verify(None, executor=executor, **options)


def test_honest_packs_are_identical(store, data, capsys):
    pack(study(store, "first", CONFIGS[:2]))
    pack(study(store, "second", CONFIGS[2:]))
    before = contents(data / "first")
    assert [verdict.outcome for verdict in retrained()] == 4 * ["identical"]
    assert main(["verify", "1", "--seed", "3", "--study", "second"]) == 0  # as people call it
    shown = capsys.readouterr().out
    assert "--seed 3" in shown and "second/" in shown and "1 identical" in shown
    assert contents(data / "first") == before and os.environ["SHAPO_DATA"] == str(data)


def add(column, row, amount):
    def change(table):
        table = table.copy()
        table.loc[row, column] += amount
        return table

    return change


@pytest.mark.parametrize(("table", "column", "row"), [("progress", "kl", 1), ("episodes", "cost", 0)])
def test_an_edited_number_is_found(store, data, table, column, row):
    pack(study(store, configs=[SMALL, CONFIGS[3]]))
    edit(data / "small" / f"{table}.parquet", add(column, row, 1))
    first, second = retrained()
    assert (first.outcome, second.outcome) == ("edited", "identical")
    assert first.detail.startswith(f"{table}: first in {column}, row {row + 1}: ")
    assert f"at most by 1, in {column}, row {row + 1}" in first.detail


def test_numbers_that_do_not_come_out_again(store, data):
    pack(study(store, configs=[SMALL]))
    runs = data / "small" / "runs.parquet"
    edit(data / "small" / "progress.parquet", add("total_cost", 2, 1))
    edit(runs, lambda rows: rows.assign(progress_sha256=digest(shapo.Run(SMALL, data).progress)))
    (verdict,) = retrained()
    assert verdict.outcome == "differs" and "first in total_cost, row 3" in verdict.detail
    edit(runs, lambda rows: rows.assign(provenance=rows.provenance.str.replace('"torch": "', '"torch": "0.')))
    (verdict,) = retrained()
    assert verdict.outcome == "differs elsewhere" and "recorded under torch 0." in verdict.detail
    edit(runs, lambda rows: rows.assign(progress_sha256=digest(shapo.Run(SMALL, store).progress)))
    (verdict,) = retrained()
    assert verdict.outcome == "edited", "another machine is no excuse for that"


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        (["identical"], 0), (["identical", "differs elsewhere"], 3), (["differs elsewhere", "differs"], 1),
        (["identical", "edited"], 1), (["failed"], 1),
    ],
)  # fmt: skip
def test_the_exit_status_tells_the_worst(outcomes, status):
    assert exit_status([Verdict("a run", outcome) for outcome in outcomes]) == status


def test_an_edited_config_is_told_before_anything_is_trained(store, data, capsys):
    pack(study(store, configs=[SMALL]))
    runs = data / "small" / "runs.parquet"
    for field, other, message in [
        ("seed", 1, "it is that of"),
        ("task", "Nowhere-v0", "task must be one of"),
    ]:
        config = json.dumps(describe(SMALL.resolved) | {field: other})
        edit(runs, lambda rows: rows.assign(config=config))  # noqa: B023
        assert main(["verify", "1"]) == 1
        assert message in capsys.readouterr().err


@dataclass(frozen=True)
class Sideways:
    """A perturbation from outside the package."""

    scale: float = 0.0

    def __call__(self, gradient, fisher, samples):
        return self.scale * gradient


def test_what_this_version_cannot_retrain_is_left_out_of_the_draw(store, data, capsys):
    outside = replace(SMALL, actor=Sideways(), total_steps=800)
    shapo.train(outside, runs=store, progress=False)
    pack(study(store, configs=[outside, CONFIGS[3], SMALL]))
    edit(data / "small" / "runs.parquet", lambda rows: rows.assign(method=[2, 2, 1]))
    assert [verdict.outcome for verdict in retrained()] == ["identical"]
    assert "2 shipped runs are of another method version" in capsys.readouterr().out


def test_mistakes_on_the_command_line_are_told(store, data, capsys, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(store))

    def told(*arguments):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code
        assert status == 2
        return capsys.readouterr().err

    assert "nothing is shipped" in told("verify", "1")
    pack(study(store, configs=[SMALL]))
    for number in ("0", "-1", "1.5", "two", ""):
        assert "must be a whole number from 1, or all" in told("verify", number) or number == "-1"
    assert "N must be from 1 to 1" in told("verify", "2")
    assert "holds no packed study other; there are: small" in told("verify", "1", "--study", "other")
    assert "must be one of pilot, " in told("pack", "nonsense")
    assert "invalid choice: 'huge'" in told("pack", "pareto", "--profile", "huge")
    assert "is not finished" in told("pack", "pareto", "--profile", "smoke")


def test_how_far_two_tables_are_apart():
    table = pd.DataFrame({"epoch": [1, 2, 3], "kl": [0.1, np.nan, 0.3]})
    assert "not to the last bit" in difference(table, table)
    assert difference(table, table.head(2)).startswith("3 rows here, 2 shipped")
    assert "columns epoch, kl here; epoch shipped" in difference(table, table[["epoch"]])
    assert "first in kl, row 2: nan here, 0.5 shipped" in difference(table, table.fillna(0.5))
    far = difference(table, table.assign(kl=[0.2, np.nan, 2.3]))
    assert "first in kl, row 1: 0.1" in far and "at most by 2, in kl, row 3" in far


NESTED = [
    SMALL,
    shapo.Config("PointButton1-v0", "SauteRL", seed=3, hidden_sizes=(32, 16)),
    shapo.Config("Ant-v4", shapo.CRPO(), critic=shapo.EuclideanSAM(0.1)),
    shapo.Config("Walker2d-v4", shapo.CPO(target_kl=0.02), actor=shapo.EuclideanSAM(0.3), cost_limit=1.5),
    shapo.Config(algorithm=shapo.TRPOLag(lagrangian_multiplier_init=0.5), actor=shapo.FisherSAM(0.1 + 0.2)),
    shapo.Config(actor=shapo.FisherSAM(shapo.FixedAlpha(0.05))),
    shapo.Config(actor=shapo.FisherSAM(shapo.FixedDelta(0.001))),
]


@pytest.mark.parametrize("config", NESTED, ids=range(len(NESTED)))
def test_a_config_comes_back_from_its_description(config):
    again = config_from(json.loads(json.dumps(config.identity["config"])))
    assert again == config.resolved and again.run_id == config.run_id


def test_every_config_of_the_experiments_comes_back():
    from shapo.experiments.safety import study

    for run in study("all", "laptop").runs:
        assert config_from(run.config.identity["config"]) == run.config.resolved


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (describe(SMALL.resolved) | {"task": "Nowhere-v0"}, "task must be one of"),
        (
            describe(SMALL.resolved) | {"colour": "red"},
            "not a description of this version's Config: .*colour",
        ),
        (
            {k: v for k, v in describe(SMALL.resolved).items() if k != "gamma"},
            "not a description of a Config of this version",
        ),
        (describe(shapo.FisherSAM(0.1)), "not a description of a Config"),
        (describe(replace(SMALL, actor=Sideways())), "Sideways is not the package's own"),
        (describe(SMALL) | {"algorithm": {"class": "math"}}, "math is not"),
        ([], "not a description of a Config"),
    ],
)
def test_what_describes_no_config_is_refused(description, message):
    with pytest.raises(ValueError, match=message):
        config_from(description)
