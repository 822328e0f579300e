"""A config says clearly what is wrong with it, and names its run by everything in it."""

import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import shapo
from shapo import CPO, Config, EuclideanSAM, FisherSAM, FixedAlpha, PIDLag, Run, TRPOLag
from shapo.algorithms import ALGORITHMS
from shapo.runs.identity import RunConfig, config_from, describe
from shapo.runs.verify import verify

BAD = [
    ("task", "PointGoal9-v0", "task must be one of .*PointGoal1-v0"),
    ("algorithm", "PPO", "algorithm must be one of TRPOLag, PIDLag"),
    ("algorithm", 3, "algorithm must be a name or"),
    ("algorithm", PIDLag, "algorithm must be a name or"),
    ("actor", 0.001, "actor must be None or"),
    ("actor", FisherSAM, "actor must be None or"),
    (
        "actor",
        lambda gradient, fisher, samples: gradient,
        "actor must be None or a perturbation, a frozen dataclass",
    ),
    (
        "actor",
        FixedAlpha(0.05),
        r"actor must be .* a schedule goes into FisherSAM; got FixedAlpha\(alpha=0.05",
    ),
    ("critic", FisherSAM(0.1), "critic must be None or"),
    ("total_steps", 30_000, "total_steps must be a multiple of steps_per_epoch = 20000; got 30000"),
    ("steps_per_epoch", 1, "steps_per_epoch must be a whole number, at least 2"),
    ("total_steps", 0, "total_steps must be a whole number"),
    ("total_steps", 2e6 + 0.5, "total_steps must be a whole number"),
    ("num_envs", 7, "num_envs must divide steps_per_epoch = 20000; got num_envs = 7"),
    ("num_envs", 0, "num_envs must be a whole number"),
    ("seed", -1, "seed must be a whole number, at least 0"),
    ("seed", True, "seed must be a whole number"),
    ("task", ["PointGoal1-v0"], "task must be one of"),
    ("hidden_sizes", (), "hidden_sizes must be a tuple of layer sizes"),
    ("hidden_sizes", 64, "hidden_sizes must be a tuple of layer sizes"),
    ("hidden_sizes", (64, 0), "hidden_sizes must be a whole number, at least 1"),
    ("hidden_sizes", (True,), "hidden_sizes must be a whole number, at least 1"),
    ("gamma", 1.5, "gamma must be a number from 0 to 1"),
    ("gamma", True, "gamma must be a number from 0 to 1"),
    ("gae_lambda", -0.1, "gae_lambda must be"),
    ("cost_limit", math.nan, "cost_limit must be a finite number"),
    ("cost_limit", -1.0, "cost_limit must be a finite number"),
    ("critic_lr", math.inf, "critic_lr must be"),
    ("critic_lr", "fast", "critic_lr must be"),
    ("max_grad_norm", -1.0, "max_grad_norm must be"),
    ("minibatch_size", 20_001, "minibatch_size must be at most"),
]


@pytest.mark.parametrize("field, value, message", BAD)
def test_bad_fields_are_named(field, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Config(**{field: value})


def test_a_refused_setting_is_named():
    for wrong in (FisherSAM(0.01), FixedAlpha, lambda: 0.1):
        with pytest.raises(ValueError, match="delta_down must be a finite number, at least 0, or a schedule"):
            FisherSAM(wrong)
    for wrong in ("no", 0, None):
        with pytest.raises(ValueError, match="cost_per_step must be True or False; got"):
            CPO(cost_per_step=wrong)
    assert CPO(cost_per_step=np.bool_(False)) == CPO(cost_per_step=False)
    with pytest.raises(TypeError, match=r"actor must be None or a perturbation.*got FixedDelta"):
        shapo.RobotConfig(actor=shapo.FixedDelta(0.01))


def test_names_and_instances_are_the_same_run():
    assert Config() == Config(algorithm=PIDLag()) and Config().algorithm == PIDLag()
    steps = [
        Config(total_steps=number).total_steps for number in (2_000_000, 2e6, np.float64(2e6), np.int64(2e6))
    ]
    assert [type(number) for number in steps] == [int] * 4 and set(steps) == {2_000_000}
    spelled_out = PIDLag(target_kl=0.02, cg_damping=0.2)
    assert Config().run_id == Config(algorithm=spelled_out, cost_limit=10.0).run_id
    assert Config(algorithm="TRPOLag").run_id == Config(algorithm=TRPOLag()).run_id


def test_every_field_is_in_the_name():
    other = {
        "algorithm": PIDLag(pid_kp=0.2), "actor": FisherSAM(0.001), "critic": EuclideanSAM(0.05),
        "total_steps": 40_000, "seed": 1, "cost_limit": 25.0, "num_envs": 10, "steps_per_epoch": 10_000,
        "hidden_sizes": (32,), "gamma": 0.9, "cost_gamma": 0.9, "gae_lambda": 0.9, "cost_gae_lambda": 0.9,
        "critic_lr": 1e-4, "critic_passes": 5, "minibatch_size": 64, "critic_l2": 0.0, "max_grad_norm": 1.0,
    }  # fmt: skip
    assert set(other) == {field.name for field in dataclasses.fields(Config)} - {"task"}
    configs = [Config(), *(Config(**{field: value}) for field, value in other.items())]
    configs += [
        Config(actor=FisherSAM(0.002)),
        Config(actor=FisherSAM(FixedAlpha(0.05))),
        Config(actor=EuclideanSAM(0.001)),
    ]
    assert len({config.run_id for config in configs}) == len(configs)


def test_description_is_json_and_complete():
    text = json.dumps(describe(Config(actor=FisherSAM(FixedAlpha(0.05)))))
    assert '"alpha": 0.05' in text and '"pid_kp": 0.1' in text and '"class": "FisherSAM"' in text


def test_equal_configs_are_one_run_however_they_were_written():
    plain = Config(cost_limit=10.0, gamma=1.0, seed=3, actor=FisherSAM(0.5))
    for other in (
        Config(cost_limit=10, gamma=1, seed=np.int64(3), actor=FisherSAM(np.float32(0.5))),
        Config(cost_limit=np.float64(10), gamma=1, seed=3, hidden_sizes=[64, 64], actor=FisherSAM(0.5)),
    ):
        assert other == plain and other.run_id == plain.run_id and hash(other) == hash(plain)


def test_a_perturbation_must_be_frozen_and_finite():
    @dataclasses.dataclass
    class Loose:
        def __call__(self, gradient, fisher, samples):
            return -gradient

    with pytest.raises(TypeError, match=r"^actor: \S*Loose must be a frozen dataclass"):
        Config(actor=Loose())
    with pytest.raises(TypeError, match="finite"):
        Config(
            actor=dataclasses.make_dataclass("P", [("x", float)], frozen=True, namespace={"__call__": print})(
                math.nan
            )
        )


CELL = """
from dataclasses import dataclass
import shapo

@dataclass(frozen=True)
class Mine:
    scale: float
    def __call__(self, gradient, fisher, samples):
        {comment}
        return {body}

config = shapo.Config(
    actor=Mine(0.1), total_steps=800, steps_per_epoch=400, num_envs=4, minibatch_size=64, hidden_sizes=(8,), seed=4
)
print(config.run_id)
"""
CELL_RUN = """
(run,) = shapo.Study("cell", [config], runs={runs!r}).run(progress=False).runs
print(run.config.run_id, run.finished)
"""


def test_a_users_perturbation_is_named_by_its_code(tmp_path):
    def run_id(body, comment):
        (tmp_path / "script.py").write_text(CELL.format(body=body, comment=comment))
        done = subprocess.run(
            [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    original = run_id("-self.scale * gradient", "pass")
    assert original == run_id("-self.scale * gradient", "# said differently\n        pass")
    assert len({original, run_id("-gradient", "pass"), run_id("-2 * self.scale * gradient", "pass")}) == 3


def test_a_perturbation_written_in_a_notebook_cell_runs_in_a_study(tmp_path):
    cells = [CELL.format(body="-self.scale * gradient", comment="pass"), CELL_RUN.format(runs=str(tmp_path))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    named, ran = ("".join(output.text for output in cell.outputs) for cell in notebook.cells)
    assert ran.split() == [
        named.strip(),
        "True",
    ]  # the same name in the kernel and in the worker that trained


def test_runs_live_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    config = Config(seed=3)
    assert Run(config).path == tmp_path / "PointGoal1-v0" / f"PIDLag-seed3-{config.run_id}"
    assert not Run(config).exists and Run(config).epoch == 0 and Run(config).progress.empty


@pytest.mark.parametrize("task, actions", [("PointGoal1-v0", 2), ("Walker2d-v4", 6), ("Ant-v4", 8)])
@pytest.mark.parametrize("algorithm", ["TRPOLag", "PIDLag", "CPO", "CRPO"])
def test_the_trust_region_is_the_fields_per_component_of_the_action(task, actions, algorithm):
    config = Config(task, algorithm)
    assert config.algorithm.target_kl is None and config.algorithm.cg_damping is None
    ball = config.resolved.algorithm
    assert (ball.target_kl, ball.cg_damping) == pytest.approx((0.01 * actions, 0.1 * actions))
    assert config.identity["config"]["algorithm"]["target_kl"] == ball.target_kl
    assert config.make_env().single_action_space.shape == (actions,)
    own = Config(task, ALGORITHMS[algorithm](target_kl=0.005, cg_damping=0.0)).resolved.algorithm
    assert (own.target_kl, own.cg_damping) == (0.005, 0.0)


def test_what_was_left_to_the_task_follows_it():
    """`replace` takes the other task's cost limit, radius, tolerance and budget, never the first one's."""
    for algorithm in ("TRPOLag", "CRPO", "CPO"):
        moved = replace(Config("PointGoal1-v0", algorithm), task="Walker2d-v4")
        assert (
            moved == Config("Walker2d-v4", algorithm)
            and moved.run_id == Config("Walker2d-v4", algorithm).run_id
        )
        assert moved.resolved.cost_limit == 0.0 and moved.resolved.algorithm.target_kl == 0.06
    moved = replace(Config("PointGoal1-v0", "SauteRL"), task="PointButton1-v0")
    assert moved.run_id == Config("PointButton1-v0", "SauteRL").run_id
    ant, humanoid = shapo.RobotConfig("DiffAnt"), shapo.RobotConfig("DiffHumanoid")
    assert replace(ant, task="DiffHumanoid").run_id == humanoid.run_id
    assert replace(ant, task="DiffHumanoid").resolved.algorithm.critic_lr == 5e-4
    kept = replace(Config("PointGoal1-v0", cost_limit=3.0), task="Walker2d-v4")
    assert kept.resolved.cost_limit == 3.0


def test_zero_has_one_sign():
    assert Config(cost_limit=-0.0).run_id == Config(cost_limit=0.0).run_id
    assert shapo.FisherSAM(-0.0).delta_down.hex() == "0x0.0p+0"


@dataclass(frozen=True)
class Scaled:
    by: float
    parts: tuple = ()

    def __call__(self, gradient, fisher, samples):
        return self.by * gradient


def test_equal_perturbations_of_the_users_are_one_run():
    names = [
        Config(actor=Scaled(*given)).run_id
        for given in [(0.0, (0.0,)), (-0.0, (-0.0,)), (0, (0.0,)), (1.0,), (1,)]
    ]
    assert names[0] == names[1] == names[2] != names[3] == names[4]


def test_a_config_class_of_the_users_is_none_of_the_packages():
    kept = [type(name, (RunConfig,), {}) for name in ("Own", "Config")]
    assert config_from(Config().identity["config"]).run_id == Config().run_id
    with pytest.raises(ValueError, match=r"N must be from 1 to \d+, the shipped runs that can be retrained"):
        verify(10**9)
    assert all(kind.vocabulary == {} for kind in kept)
