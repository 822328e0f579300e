"""The loss around a policy: against the trainer's own loss and gradient, and against what a direction is."""

import numpy as np
import pytest
import torch

from shapo.robots import PPO, SHAC, RobotConfig
from shapo.robots.landscape import Landscape, ascents, sharpness

CONFIG = RobotConfig(
    "DiffAnt", SHAC(horizon=4, actor_hidden_sizes=(16,), critic_hidden_sizes=(16,)), iterations=4, num_envs=4
)


@pytest.fixture(scope="module")
def networks() -> dict[str, np.ndarray]:
    trainer = CONFIG.trainer()
    trainer.run_epoch()
    return trainer.state()[0]


@pytest.fixture(scope="module")
def around(networks) -> Landscape:
    return Landscape(CONFIG, networks)


def test_the_gradient_is_that_of_the_loss(around):
    noise = around.noise()
    gradient, unit = around.gradient(noise), around.worst(around.gradient(noise), 1.0)
    step = 0.003
    difference = (around.loss(step * unit, noise) - around.loss(-step * unit, noise)) / (2 * step)
    assert difference == pytest.approx(float(gradient @ unit), rel=0.02)
    first, last = around.gradient(noise, robots=3), around.gradient(noise)
    assert not torch.equal(first, last)
    np.testing.assert_array_equal(around.gradient(noise, robots=4), last)
    moved = around.worst(gradient, 0.2)
    slope = (around.loss(moved + step * unit, noise) - around.loss(moved - step * unit, noise)) / (2 * step)
    assert slope == pytest.approx(float(around.gradient(noise, moved) @ unit), rel=0.03)


def test_robots_of_weight_0_do_not_count(around):
    noise = around.noise()
    expected = around.gradient(noise, robots=2)
    noise[:, 2:] = torch.randn(noise[:, 2:].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(around.gradient(noise, robots=2), expected)


def test_displacements_have_the_size_asked_for(around):
    for epsilon in (around.random(0.5), around.worst(around.gradient(around.noise()), 0.5)):
        moved = around.theta != 0
        assert float((epsilon[moved] / around.theta[moved]).norm()) == pytest.approx(0.5, rel=1e-4)
        assert (epsilon[~moved] == 0).all()


def test_windows_begin_where_the_policy_went(around):
    start = around.start[0]["q"].copy()
    around.advance()
    assert np.array_equal(around.earlier[0]["q"], start) and not np.array_equal(around.start[0]["q"], start)


def test_the_worst_direction_is_worse_than_a_random_one(networks):
    table = sharpness(CONFIG, networks, radii=(0.0, 0.3), windows=4, directions=4)
    rise = table.set_index(["direction", "radius"]).rise
    assert rise["worst", 0.0] == rise["random", 0.0] == 0
    assert rise["worst", 0.3] > 3 * abs(rise["random", 0.3])
    assert table.equals(sharpness(CONFIG, networks, radii=(0.0, 0.3), windows=4, directions=4))


def test_an_earlier_window_is_another(around):
    noise = around.noise()
    assert not torch.allclose(around.gradient(noise, earlier=True), around.gradient(noise))
    assert torch.equal(around.gradient(noise), around.gradient(noise))


@pytest.mark.parametrize("measure", [sharpness, ascents])
def test_directions_are_judged_on_windows_unseen_by_the_search(networks, monkeypatch, measure):
    """Neither the states they begin in nor their noise; what `advance` rolls out is no judgement."""
    searched, judged = [], []
    gradient, loss, advance = Landscape.gradient, Landscape.loss, Landscape.advance

    def seen(around, noise, earlier=False):
        return (around.earlier if earlier else around.start)[0]["q"].tobytes(), noise.numpy().tobytes()

    def on_gradient(self, noise, *args, **kwargs):
        searched.append(seen(self, noise, kwargs.get("earlier", False)))
        return gradient(self, noise, *args, **kwargs)

    def on_loss(self, epsilon, noise):
        judged.append(seen(self, noise))
        return loss(self, epsilon, noise)

    def on_advance(self):
        count = len(judged)
        advance(self)
        del judged[count:]

    for name, method in (("gradient", on_gradient), ("loss", on_loss), ("advance", on_advance)):
        monkeypatch.setattr(Landscape, name, method)
    few = (
        {"radii": (0.3,), "windows": 2, "directions": 1}
        if measure is sharpness
        else {"rho": 0.3, "repeats": 2}
    )
    measure(CONFIG, networks, **few)
    for kind in (0, 1):
        there, here = ({window[kind] for window in windows} for windows in (searched, judged))
        assert there and here and not there & here


def test_cheap_ascents(networks, monkeypatch):
    looked, gradient = [], Landscape.gradient

    def seen(self, noise, *args, robots=None, earlier=False):
        looked.append((len(noise), robots, earlier))
        return gradient(self, noise, *args, robots=robots, earlier=earlier)

    monkeypatch.setattr(Landscape, "gradient", seen)
    table = ascents(CONFIG, networks, rho=0.3, shares=(2, 4), repeats=3)
    assert table.groupby(["ascent", "share"]).size().to_dict() == {
        ("all", 1.0): 3, ("window before", 0.5): 3, ("first robots", 0.5): 3, ("first robots", 0.25): 3,
        ("first steps", 0.5): 3, ("first steps", 0.25): 3,
    }  # fmt: skip
    assert set(looked) == {
        (4, None, False), (4, None, True), (2, None, False), (1, None, False), (4, 2, False), (4, 1, False),
    }  # fmt: skip
    assert (table[table.ascent == "all"].cosine > 0.999).all()
    assert (table[table.ascent != "all"].cosine < 0.999).all()
    assert table[table.ascent == "all"].rise.mean() > 0


def test_ppo_has_no_such_loss(networks):
    with pytest.raises(ValueError, match="the loss around a policy is SHAC's"):
        Landscape(RobotConfig(algorithm=PPO()), networks)
