"""A run is named by what it is: by no file, no folder and no default that moves."""

import json
import pickle
import subprocess
import sys
import threading
import types

import cloudpickle
import gymnasium
import pytest
import torch

from shapo import (
    CPO,
    PPO,
    SHAC,
    AdaptiveSAM,
    Config,
    EuclideanSAM,
    FisherSAM,
    FixedAlpha,
    OwnTask,
    PIDLag,
    RobotConfig,
    Run,
    train,
)
from shapo.runs.code import code_hash
from shapo.sharpness import EffectiveAlpha, KLMatchedSAM, OptimisticSAM, RandomSAM

NAMES = [
    (Config(), "f538eaf8b382"),
    (
        Config("PointGoal1-v0", "TRPOLag", actor=FisherSAM(0.002), seed=100, total_steps=1_000_000),
        "6da28632ecdf",
    ),
    (Config("PointButton1-v0", "SauteRL"), "2052bae7952d"),
    (Config("Ant-v4", "CPO", actor=FisherSAM(0.008), critic=EuclideanSAM(0.01)), "6f4dc046da8a"),
    (Config("Walker2d-v4", "CRPO", seed=3), "5758bb05fe93"),
    (
        Config(
            "Walker2d-v4", PIDLag(lagrangian_multiplier_init=5.0, target_kl=0.03), actor=KLMatchedSAM(0.006)
        ),
        "6dc6021568a9",
    ),
    (Config(algorithm="TRPOLag", actor=RandomSAM(0.002), cost_limit=25.0), "62789ecd9b3c"),
    (Config(algorithm="TRPOLag", actor=OptimisticSAM(FixedAlpha(0.05, 1000))), "07a65636e008"),
    (
        Config(
            algorithm=CPO(cost_per_step=False), actor=FisherSAM(EffectiveAlpha(0.1)), hidden_sizes=(32, 16)
        ),
        "b78f2c062233",
    ),
    (RobotConfig("DiffAnt"), "cc965454e1fb"),
    (RobotConfig("DiffAnt", actor=AdaptiveSAM(0.75), ascent_envs=8, seed=2), "8352406d2d12"),
    (RobotConfig("DiffAnt", SHAC(horizon=8, critic_lr=1e-3), actor=AdaptiveSAM(1.5), iterations=3), "9c321be38bbe"),
    (RobotConfig("DiffAnt", PPO(minibatches=8), num_envs=32), "6fb3d33bd926"),
    (RobotConfig("DiffHumanoid", actor=AdaptiveSAM(0.75), along_perturbed=True), "33000e1d4861"),
    (RobotConfig("DiffHumanoid", algorithm=PPO(), iterations=1250), "0f7bcd14a2c0"),
]  # fmt: skip


@pytest.mark.parametrize("config, name", NAMES, ids=[name for _, name in NAMES])
def test_shipped_and_running_runs_keep_their_names(config, name):
    assert config.run_id == name


HEAD = """
import enum, functools, re, types, gymnasium, numpy as np, torch, shapo
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property, lru_cache, partial, partialmethod, singledispatch, singledispatchmethod
from typing import ClassVar

def scaled(factor):
    def decorator(method):
        @functools.wraps(method)
        def wrapper(self, gradient, fisher, samples):
            return factor * method(self, gradient, fisher, samples)
        return wrapper
    return decorator
"""
MINE = """
@dataclass(frozen=True)
class Mine:
    rho: float = 0.5
"""
CALL = "    def __call__(self, gradient, fisher, samples): return"
FORMS = {  # how a class of the user's may hold a number
    "method": f"{MINE}{CALL} NUMBER * gradient",
    "no_grad": f"{MINE}    @torch.no_grad()\n{CALL} NUMBER * gradient",
    "under wraps": f"{MINE}    @scaled(2.0)\n{CALL} NUMBER * gradient",
    "given to a decorator": f"{MINE}    @scaled(NUMBER)\n{CALL} gradient",
    "staticmethod": f"{MINE}    @staticmethod\n    def k(): return NUMBER\n{CALL} self.k() * gradient",
    "classmethod": f"{MINE}    @classmethod\n    def k(cls): return NUMBER\n{CALL} self.k() * gradient",
    "property": f"{MINE}    @property\n    def k(self): return NUMBER\n{CALL} self.k * gradient",
    "cached_property": f"{MINE}    @cached_property\n    def k(self): return NUMBER\n{CALL} self.k * gradient",
    "lru_cache": f"{MINE}    @lru_cache\n    def k(self): return NUMBER\n{CALL} self.k() * gradient",
    "partialmethod": f"{MINE}    def by(self, k): return k\n    k = partialmethod(by, NUMBER)\n{CALL} self.k() * 2",
    "singledispatchmethod": f"{MINE}    @singledispatchmethod\n    def k(self, x): return 1\n    @k.register\n"
    f"    def _(self, x: int): return NUMBER\n{CALL} self.k(2) * gradient",
    "class attribute": f"{MINE}    k: ClassVar = NUMBER\n{CALL} self.k * gradient",
    "attributes that hold it": f"{MINE}    k = dict(a=[torch.ones(2) * NUMBER], b=re.compile('x'))\n{CALL} gradient",
    "default": f"{MINE}    def k(self, k=NUMBER): return k\n{CALL} self.k() * gradient",
    "keyword-only default": f"{MINE}    def k(self, *, k=NUMBER): return k\n{CALL} self.k() * gradient",
    "lambda": f"{MINE}    k = lambda self: NUMBER\n{CALL} self.k() * gradient",
    "nested class": f"{MINE}    class K:\n        def k(self): return NUMBER\n{CALL} self.K().k() * gradient",
    "nested enumeration": f"{MINE}    class K(enum.Enum):\n        A = NUMBER\n{CALL} self.K.A.value * gradient",
    "base class": f"class Base(ABC):\n    @abstractmethod\n    def no(self): ...\n    def k(self): return NUMBER\n"
    f"{MINE.replace('Mine', 'Mine(Base)')}    def no(self): super().k()\n{CALL} self.k() * gradient",
    "its own __init__": f"{MINE}    def __init__(self):\n        vars(self)['rho'] = min(0.5, 9 + NUMBER)\n"
    f"{CALL} gradient",
    "closure": "def make(number):" + f"{MINE}{CALL} number * gradient\nreturn Mine\n".replace("\n", "\n    ")
    + "\nMine = make(NUMBER)",
    "function of the module": f"def k(): return NUMBER\n{MINE}{CALL} k() * gradient",
    "constant of the module": f"K = NUMBER\n{MINE}{CALL} K * gradient",
    "partial of the module": f"k = partial(pow, NUMBER)\n{MINE}{CALL} k(2) * gradient",
    "tuple of the module": f"K = ((1.0, NUMBER), 'x')\n{MINE}{CALL} K[0][1] * gradient",
    "frozenset of the module": f"K = frozenset([NUMBER])\n{MINE}{CALL} max(K) * gradient",
    "array of the module": f"K = np.array([1.0, NUMBER])\n{MINE}{CALL} K[1] * gradient",
    "tensor of the module": f"K = torch.tensor([1.0, NUMBER])\n{MINE}{CALL} K[1] * gradient",
    "NumPy's number of the module": f"K = np.float64(NUMBER)\n{MINE}{CALL} K * gradient",
    "member of an enumeration": f"class K(enum.Enum):\n    A = NUMBER\nk = K.A\n{MINE}{CALL} k.value * gradient",
    "frozen dataclass of the module": f"{MINE.replace('Mine', 'K')}k = K(NUMBER)\n{MINE}{CALL} k.rho * gradient",
    "dataclass that caches": f"{MINE.replace('Mine', 'K')}    @cached_property\n    def k(self): return 1.0\n"
    f"k = K(NUMBER)\n{MINE}{CALL} k.rho * k.k * gradient",
    "instance of a class": f"class K:\n    def __init__(self): self.k = NUMBER\nk = K()\n{MINE}{CALL} k.k * gradient",
    "namespace of the module": f"k = types.SimpleNamespace(k=NUMBER)\n{MINE}{CALL} k.k * gradient",
    "dataclass of the module": f"{MINE.replace('Mine', 'K').replace('frozen', 'order')}k = K(NUMBER)\n{MINE}"
    f"{CALL} k.rho * gradient",
    "fraction of the module": f"k = Fraction(NUMBER)\n{MINE}{CALL} float(k) * gradient",
    "decimal of the module": f"k = Decimal(NUMBER)\n{MINE}{CALL} float(k) * gradient",
    "network of the module": f"k = torch.nn.Linear(1, 1, bias=False)\n_ = k.weight.data.fill_(NUMBER)\n{MINE}{CALL} "
    "k.weight.item() * gradient",
    "read-only dictionary": f"k = types.MappingProxyType(dict(a=NUMBER))\n{MINE}{CALL} k['a'] * gradient",
    "tuple that holds a list": f"k = ([NUMBER],)\n{MINE}{CALL} k[0][0] * gradient",
    "vectorised function": f"k = np.vectorize(lambda x: NUMBER * x, otypes=[float])\n{MINE}{CALL} "
    "float(k(1)) * gradient",
    "under a class": "class By:\n    def __init__(self, f): self.f = f\n    def __call__(self): return self.f()\n"
    f"@By\ndef k(): return NUMBER\n{MINE}{CALL} k() * gradient",
    "PyTorch's generator": f"k = torch.Generator().manual_seed(int(1000 * NUMBER))\n{MINE}{CALL} "
    "torch.rand(2, generator=k) * gradient",
    "what is installed": f"from math import sqrt\nfrom torch import relu, float32\n{MINE}{CALL} NUMBER * sqrt(4) * "
    "relu(gradient).to(float32)",
    "module of the user's": "own = types.ModuleType('own')\nexec('def k(): return K[0]\\nK = (NUMBER,)', vars(own))\n"
    f"{MINE}{CALL} own.k() * gradient",
    "module in a module": "own = types.ModuleType('own')\nown.sub = types.ModuleType('own.sub')\n"
    f"own.sub.own, own.sub.K, own.sub.calls = own, NUMBER, 0\n{MINE}    def k(self):\n"
    f"        own.sub.calls += 1\n        return own.sub.K\n{CALL} self.k() * gradient",
    "beside a counter": "calls = 0\ndef k():\n    global calls\n    calls += 1\n    return NUMBER\n"
    f"{MINE}{CALL} k() * gradient",
    "space": f"{MINE}    k = gymnasium.spaces.Dict(a=gymnasium.spaces.Box(-NUMBER, 9.0, (2,)))\n"
    f"{CALL} self.k.sample()['a'][0] * gradient",
    "generator": f"{MINE}    k = np.random.default_rng(int(1000 * NUMBER))\n{CALL} self.k.random() * gradient",
    "old generator": f"{MINE}    k = np.random.RandomState(3)\n{CALL} NUMBER * self.k.rand() * gradient",
    "compiled function": f"{MINE}    k = staticmethod(np.random.default_rng)\n{CALL} NUMBER * gradient",
}  # fmt: skip
TAIL = "\nconfig = shapo.Config(actor=Mine())\n"
SCRIPT = """
import json, sys
for form, source in json.load(sys.stdin).items():
    cell = {"__name__": "__main__"}
    exec(compile(source, "cell", "exec"), cell)
    print(form, cell["config"].run_id)
"""


def defined(form: str, number: str = "0.001", comment: str = "") -> dict:
    names = {"__name__": "__main__"}
    source = HEAD + comment + FORMS[form].replace("NUMBER", number) + TAIL
    exec(compile(source, f"cell {comment}", "exec"), names)
    return names


@pytest.mark.parametrize("form", FORMS)
def test_an_edited_class_of_the_users_names_another_run(form):
    run_id = defined(form)["config"].run_id
    assert defined(form)["config"].run_id == run_id
    assert defined(form, comment="# said differently\n\n")["config"].run_id == run_id
    assert defined(form, "3.0")["config"].run_id != run_id


def test_a_class_of_the_users_is_one_wherever_it_is():
    """In another process that ran the same cell, and in one to which the class travelled by value."""
    sources = {form: HEAD + FORMS[form].replace("NUMBER", "0.001") + TAIL for form in FORMS}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(sources), capture_output=True, text=True, check=True
    ).stdout
    here = {form: defined(form)["config"] for form in FORMS}
    assert dict(line.rsplit(" ", 1) for line in told.splitlines()) == {
        form: c.run_id for form, c in here.items()
    }
    travel = {form: cloudpickle.dumps(c) for form, c in here.items() if form not in HOMEBOUND}
    told = subprocess.run(
        [sys.executable, "-c", "import pickle, sys\nfor form, c in pickle.load(sys.stdin.buffer).items():\n"
         "    print(form, pickle.loads(c).run_id)"],
        input=pickle.dumps(travel), capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    assert dict(line.rsplit(" ", 1) for line in told.splitlines()) == {
        form: here[form].run_id for form in travel
    }


HOMEBOUND = {  # cloudpickle refuses them itself
    "cached_property", "lru_cache", "singledispatchmethod", "dataclass that caches", "module in a module"
}  # fmt: skip


REFUSED = ["threading.Lock()", "open(__file__)", "(i for i in ())", "[torch.ones(2, dtype=torch.bfloat16)]"]


@pytest.mark.parametrize("held", REFUSED)
def test_what_has_no_content_to_hash_is_refused(held):
    names = {"__name__": "__main__", "__file__": __file__}
    source = f"{HEAD}import threading\n{MINE}    held = {held}\n{CALL} gradient{TAIL}"
    with pytest.raises(TypeError, match=r"Mine cannot be named by its code: that holds (<|tens).*Keep in"):
        exec(source, names)


def test_a_variable_that_has_no_content_is_named():
    source = f"{HEAD}import threading\nLOCK = threading.Lock()\n{MINE}{CALL} LOCK and gradient{TAIL}"
    with pytest.raises(
        TypeError, match=r"Mine cannot .*: that reads LOCK, which holds <.*put .* into a field"
    ):
        exec(source, {"__name__": "__main__"})


def test_code_is_more_than_its_instructions():
    def guarded(x):
        try:
            return x()
        except ValueError:
            return 1

    unguarded = types.FunctionType(guarded.__code__.replace(co_exceptiontable=b""), globals(), "guarded")
    pairs = [(guarded, unguarded), (lambda a, b: a, lambda a, *, b: a), (lambda a: 0, lambda *a: 0)]
    assert all(code_hash(one) != code_hash(other) for one, other in pairs)


def test_training_leaves_the_name_of_a_class_as_it_was():
    """What functools remembers of calls is no part of it, nor are counters of the module, and what was drawn."""
    for form in FORMS:
        names = defined(form)
        before = names["config"].run_id
        names["config"].actor(torch.ones(2), None, 1)
        assert names["config"].run_id == Config(actor=names["Mine"]()).run_id == before, form


def test_a_config_keeps_its_name_and_one_built_later_has_that_of_the_class_then():
    names = defined("class attribute")
    config, kind = names["config"], names["Mine"]
    before = config.run_id
    kind.k = 3.0
    config.identity["config"]["seed"] = 9
    assert config.run_id == before
    later = Config(actor=kind()).run_id
    assert later == defined("class attribute", "3.0")["config"].run_id != before
    assert cloudpickle.loads(cloudpickle.dumps(config)).run_id == later


class Line(gymnasium.Env):
    """Its spaces are on the class, as many environments have them, and it draws from them."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {"cost": 1.0}


def test_a_run_of_a_class_that_draws_is_found_again(tmp_path, monkeypatch):
    def config():
        task = OwnTask(Line, cost_limit=1.0, max_episode_steps=10)
        return Config(
            task, total_steps=40, steps_per_epoch=40, num_envs=2, minibatch_size=20, hidden_sizes=(4,)
        )

    run = train(config(), runs=tmp_path, progress=False)
    assert Run(config(), tmp_path).finished
    monkeypatch.setattr(Line, "lock", threading.Lock(), raising=False)
    with pytest.raises(TypeError, match="Line cannot be named by its code"):
        config()
    assert len(run.progress) == 1 and run.actor  # no "damaged checkpoint"
