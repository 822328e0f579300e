"""A config says clearly what is wrong with it, and names its run by everything in it."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from shapo import Config, EuclideanSAM, FisherSAM, FixedAlpha, PIDLag, Run, TRPOLag
from shapo.config import describe

BAD = [
    ("task", "PointGoal9-v0", "task must be one of PointGoal1-v0"),
    ("algorithm", "PPO", "algorithm must be one of TRPOLag, PIDLag"),
    ("algorithm", 3, "algorithm must be a name or"),
    ("algorithm", PIDLag, "algorithm must be a name or"),
    ("actor", 0.001, "actor must be None or"),
    ("actor", FisherSAM, "actor must be None or"),
    ("actor", lambda gradient, fisher, samples: gradient, "plain values and frozen dataclasses"),
    ("critic", FisherSAM(0.1), "critic must be None or"),
    ("total_steps", 30_000, "total_steps must be a multiple of steps_per_epoch = 20000; got 30000"),
    ("total_steps", 0, "total_steps must be a whole number"),
    ("total_steps", 2e6, "total_steps must be a whole number"),
    ("num_envs", 7, "num_envs must divide steps_per_epoch = 20000; got num_envs = 7"),
    ("num_envs", 0, "num_envs must be a whole number"),
    ("seed", -1, "seed must be a whole number, at least 0"),
    ("seed", True, "seed must be a whole number"),
    ("hidden_sizes", (), "hidden_sizes must be positive"),
    ("hidden_sizes", (64, 0), "hidden_sizes must be positive"),
    ("gamma", 1.5, "gamma must be a finite number from 0 to 1"),
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


def test_names_and_instances_are_the_same_run():
    assert Config() == Config(algorithm=PIDLag(), cost_limit=10.0) and Config().algorithm == PIDLag()
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


USER_CLASS = """
from dataclasses import dataclass
import shapo

@dataclass(frozen=True)
class Mine:
    scale: float
    def __call__(self, gradient, fisher, samples):
        return {body}

print(shapo.Config(actor=Mine(0.1)).run_id)
"""


def test_a_users_perturbation_is_named_by_its_source(tmp_path):
    def run_id(body, file):
        (tmp_path / file).write_text(USER_CLASS.format(body=body))
        done = subprocess.run([sys.executable, tmp_path / file], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    same, again, edited = (
        run_id("-self.scale * gradient", "a.py"), run_id("-self.scale * gradient", "b.py"), run_id("-gradient", "c.py"),
    )  # fmt: skip
    assert same == again != edited


def test_runs_live_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    config = Config(seed=3)
    assert Run(config).path == tmp_path / "PointGoal1-v0" / f"PIDLag-seed3-{config.run_id}"
    assert not Run(config).exists and Run(config).epoch == 0 and Run(config).progress.empty
