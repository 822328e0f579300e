"""The comparison with OmniSafe is fair: same ellipsoid, same environments, same settings; with OmniSafe, same steps."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from loky import ProcessPoolExecutor
from scipy import stats
from torch.nn.utils import parameters_to_vector

import shapo
from shapo import figures
from shapo.algorithms.advantages import gae
from shapo.algorithms.critics import Critics
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor, RunningNormalizer, gaussian_kl
from shapo.peers import omnisafe, validation
from shapo.peers.measuring import is_installed
from shapo.runs import shipped
from shapo.runs.workers import ONE_THREAD

needs_omnisafe = pytest.mark.skipif(not is_installed("omnisafe"), reason="OmniSafe is optional")
LAPTOP = validation.experiment("laptop")


def apart(function, *arguments):
    """OmniSafe seeds and reconfigures PyTorch: not in the process of the other tests."""
    with ProcessPoolExecutor(1, env=ONE_THREAD) as executor:
        return executor.submit(function, *arguments).result()


@pytest.fixture(scope="module")
def policy():
    rng = np.random.default_rng(0)
    actor = GaussianActor(5, 2, (8,), rng, log_std=-0.3)
    actor.theta = actor.theta.double()
    return (
        actor,
        torch.from_numpy(rng.standard_normal((40, 5))),
        torch.from_numpy(rng.standard_normal(len(actor.theta))),
    )


def test_their_damped_fisher_is_half_of_ours(policy):
    """Theirs, from its definition: the second derivative of the KL averaged over states *and* action components."""
    actor, observation, v = policy
    config = LAPTOP["TRPO-Lag"][0]
    custom = omnisafe.custom_cfgs(config)["algo_cfgs"]
    theta = actor.theta.clone().requires_grad_()
    old = torch.distributions.Normal(actor.mean(observation), actor.log_std().exp())
    new = torch.distributions.Normal(actor.mean(observation, theta), actor.log_std(theta).exp())
    kl = torch.distributions.kl_divergence(old, new).mean()
    (gradient,) = torch.autograd.grad(kl, theta, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ v, theta)
    theirs = product + custom["cg_damping"] * v
    ours = GaussianFisher(actor, observation, damping=config.resolved.algorithm.cg_damping)(v)
    torch.testing.assert_close(2 * theirs, ours, rtol=1e-10, atol=1e-12)


def test_their_kl_bound_is_ours(policy):
    actor, observation, v = policy
    moved = actor.theta + 0.05 * v
    old = torch.distributions.Normal(actor.mean(observation), actor.log_std().exp())
    new = torch.distributions.Normal(actor.mean(observation, moved), actor.log_std(moved).exp())
    theirs = torch.distributions.kl_divergence(old, new).mean()
    means = actor.mean(observation), actor.mean(observation, moved)
    ours = gaussian_kl(means[0], actor.log_std(), means[1], actor.log_std(moved)).mean()
    config = LAPTOP["CPO"][0]
    bound = omnisafe.custom_cfgs(config)["algo_cfgs"]["target_kl"]
    torch.testing.assert_close(theirs / bound, ours / config.resolved.algorithm.target_kl)


def test_the_settings_of_the_comparison_are_omnisafes_defaults():
    """As its documentation has them: configs/on-policy/*.yaml of release 0.5.0."""
    for name, configs in LAPTOP.items():
        assert [config.seed for config in configs] == list(range(validation.SEEDS))
        assert len(configs) >= 3
        assert {config.total_steps for config in configs} == {validation.TOTAL_STEPS} >= {300_000}
        custom = omnisafe.custom_cfgs(configs[0])
        assert custom["algo_cfgs"] == {
            "steps_per_epoch": 20_000, "update_iters": 10, "batch_size": 128, "target_kl": 0.01, "cg_damping": 0.1,
            "cg_iters": 15, "gamma": 0.99, "cost_gamma": 0.99, "lam": 0.95, "lam_c": 0.95, "max_grad_norm": 40.0,
            "critic_norm_coef": 0.001,
        } | ({"cost_limit": 10.0} if name == "CPO" else {})  # fmt: skip
        assert (
            configs[0].steps_per_epoch == 1000 * configs[0].num_envs
        )  # whole episodes: both reset at the same time
    pid = omnisafe.custom_cfgs(LAPTOP["TRPO-PID"][0])["lagrange_cfgs"]
    assert pid == {
        "cost_limit": 10.0, "lagrangian_multiplier_init": 0.001, "pid_kp": 0.1, "pid_ki": 0.01, "pid_kd": 0.01,
        "pid_d_delay": 10, "pid_delta_p_ema_alpha": 0.95, "pid_delta_d_ema_alpha": 0.95,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"actor": shapo.FisherSAM(0.001)},
        {"critic": shapo.EuclideanSAM(0.05)},
        {"algorithm": "CRPO"},
        {"algorithm": shapo.CPO()},
    ],
)
def test_what_omnisafe_does_not_have_is_refused(change):
    with pytest.raises(ValueError, match="OmniSafe"):
        omnisafe.custom_cfgs(replace(LAPTOP["CPO"][0], **change))


def curves(shift=0.0):
    rng = np.random.default_rng(1)
    rows = [
        {"baseline": "CPO", "side": side, "seed": seed, "epoch": epoch, "steps": 10 * epoch,
         "episode_return": rng.normal() + shift * (side == "ours"), "episode_cost": rng.normal(30),
         "lagrangian_multiplier": math.nan}
        for side in validation.SIDES for seed in range(3) for epoch in range(1, 9)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_last_quarter_is_the_mean_of_its_epochs():
    table = curves()
    runs = validation.last_quarter(table).set_index(["variant", "seed"])
    late = table[(table.side == "ours") & (table.seed == 1) & (table.epoch > 6)]
    assert len(late) == 2 and len(runs) == 6
    assert runs.loc[("ours", 1), "return"] == pytest.approx(late.episode_return.mean())
    assert runs["λ"].isna().all()


def test_differences_carry_welchs_interval_and_find_a_shift():
    runs = validation.last_quarter(curves(shift=50.0))
    table = validation.differences(runs).set_index("metric")
    us, them = (runs.loc[runs.variant == side, "return"].to_numpy() for side in validation.SIDES)
    va, vb = us.var(ddof=1) / 3, them.var(ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(va + vb)
    row = table.loc["return"]
    assert (row.low, row.high) == pytest.approx((row.difference - half, row.difference + half))
    assert row.low > 40 and row.p < 1e-3
    assert "λ" not in table.index  # never known, so nothing is said of it
    assert table.loc["cost", "low"] < 0 < table.loc["cost", "high"]


def test_the_figure_shows_the_median_and_spread_of_either_side():
    fig = figures.validation(curves(), cost_limit=10.0)
    top, middle, bottom = fig.axes
    assert len(top.lines) == len(top.collections) == 2 and len(middle.lines) == 2 + 1  # the limit
    assert [text.get_text() for text in bottom.texts] == ["solved for at every update,\nnone in recovery"]


def test_what_ships_is_whole():
    """OmniSafe's curves and ours, as many and as long as the experiment asks for, and the updates beside each other."""
    table = validation.shipped()
    assert table.groupby(validation.LABELS).size().to_dict() == {
        (name, "OmniSafe", config.seed): config.epochs
        for name, configs in LAPTOP.items()
        for config in configs
    }
    measured = ["episode_return", "episode_cost", "J_C", "std"]
    assert np.isfinite(table[measured]).all(axis=None)
    assert table[["omnisafe", "commit", "versions", "machine"]].notna().all(axis=None)
    assert len(validation.ours(LAPTOP)) == len(table)
    updates = validation.shipped("omnisafe_updates")
    assert set(updates.baseline) == set(LAPTOP) and set(updates.eps) == {0.0, 1e-6}


def test_the_shipped_curves_of_ours_come_from_the_pack():
    for configs in LAPTOP.values():
        for config in configs:
            assert shipped.pack_of(config.run_id).name == "validation"


def _replay():
    """OmniSafe's wrapper and our environment under the same actions, over the end of an epoch: largest differences."""
    env = omnisafe.environment()("PointGoal1-v0", num_envs=2)
    env.set_seed(3)
    ours = shapo.make_env("PointGoal1-v0", 2, seed=int(np.random.SeedSequence(3).generate_state(1)[0] >> 1))
    observation, worst, finals = ours.reset()[0], 0.0, 0
    theirs, _ = env.reset()
    rng = np.random.default_rng(0)
    for step in range(2003):
        if step % 1000 == 0:  # OmniSafe resets at every epoch
            theirs, _ = env.reset()
            worst = max(worst, np.abs(theirs.numpy() - observation).max())
        action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        theirs, *rest, info = env.step(torch.from_numpy(action))
        observation, *expected, our_info = ours.step(action)
        for a, b in zip([theirs, *rest], [observation, *expected], strict=True):
            worst = max(worst, np.abs(a.numpy() - b).max())
        if "final_observation" in info:
            finals += 1
            last = np.stack(our_info["final_observation"])
            worst = max(worst, np.abs(info["final_observation"].numpy() - last).max())
    return worst, finals, len(env.episodes)


@needs_omnisafe
def test_omnisafe_sees_the_environments_that_ours_see():
    worst, finals, episodes = apart(_replay)
    assert worst < 1e-5 and finals == 2 and episodes == 4


def _shadow(name, cost_limit):
    config = replace(validation.experiment("smoke")[name][0], cost_limit=cost_limit)
    return [omnisafe.shadow(config, eps) for eps in (1e-6, 0.0)]


@needs_omnisafe
@pytest.mark.parametrize(
    ("name", "cost_limit"), [("TRPO-Lag", 10.0), ("TRPO-PID", 10.0), ("CPO", 0.0), ("CPO", 1000.0)]
)
def test_an_update_of_ours_is_an_update_of_omnisafes(name, cost_limit):
    """Nearly, with the 1e-6 in its conjugate gradient; to float32 without. CPO in recovery and with a slack limit."""
    with_eps, without = apart(_shadow, name, cost_limit)
    assert (with_eps["cosine"] > 0.999).all() and (without["cosine"] > 1 - 1e-5).all()
    np.testing.assert_allclose(with_eps["ratio"], 1, atol=0.01)
    np.testing.assert_allclose(without["ratio"], 1, atol=1e-3)
    if name == "CPO":
        assert set(without["case"]) == {0.0 if cost_limit else 2.0}
    else:
        np.testing.assert_allclose(without["lagrangian_multiplier"], without["their_multiplier"], rtol=1e-5)


def _parts():
    """Largest differences, on the same data, between OmniSafe's normaliser, advantages and critics and ours."""
    omnisafe.environment()
    from omnisafe.common.normalizer import Normalizer

    rng, theirs, ours = np.random.default_rng(0), Normalizer((7,), clip=5), RunningNormalizer(7)
    worst = {"normaliser": 0.0}
    for batch in rng.normal([0, 1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 5, 5, 1e-4], (50, 20, 7)):
        ours.update(batch)
        gap = theirs.normalize(torch.from_numpy(batch).float()) - ours(batch)
        worst["normaliser"] = max(worst["normaliser"], gap[:, :6].abs().max().item())
    config = replace(validation.experiment("smoke")["TRPO-Lag"][0], total_steps=2000, minibatch_size=2000)
    with omnisafe.agent_for(config) as (agent, _):
        networks, get = [agent._actor_critic.reward_critic, agent._actor_critic.cost_critic], agent._buf.get

        def flat():
            return torch.stack([parameters_to_vector(network.parameters()).detach() for network in networks])

        critics, data = Critics(60, rng=rng), {}
        critics.theta = flat().clone()
        agent._buf.get = lambda: data.update(paths=[dict(b.data) for b in agent._buf.buffers]) or data | get()
        update = agent._update_actor
        agent._update_actor = lambda obs, *rest: (data.update(obs=obs), update(obs, *rest))
        agent.learn()
    paths = data["paths"]  # of one whole episode per environment
    stack = {name: torch.stack([path[name] for path in paths], 1).double().numpy() for name in paths[0]}
    for kind, name in (("r", "reward"), ("c", "cost")):
        value, advantage = stack[f"value_{kind}"], stack[f"adv_{kind}"]
        done = np.zeros_like(value, bool)
        done[-1] = True
        last = (advantage[-1] + value[-1] - stack[name][-1]) / 0.99  # V of the final observation
        expected = gae(stack[name], value, np.r_[value[1:], last[None]], done & False, done, 0.99, 0.95)
        worst[f"advantage of {name}"] = np.abs(advantage - expected).max()
    target = torch.stack([torch.cat([path[f"target_value_{kind}"] for path in paths]) for kind in "rc"])
    critics.fit(data["obs"], target, rng, passes=10, minibatch_size=2000)  # one batch: no order to differ in
    return worst | {"critics": (critics.theta - flat()).abs().max().item()}


@needs_omnisafe
def test_the_other_parts_are_omnisafes_too():
    assert max(apart(_parts).values()) < 1e-4


@needs_omnisafe
def test_a_run_of_omnisafes_gives_a_curve():
    config = validation.experiment("smoke")["CPO"][0]
    table = apart(omnisafe.train, config)
    assert list(table["epoch"]) == [1, 2] and list(table["steps"]) == [2000, 4000]
    assert np.isfinite(table[["episode_return", "episode_cost", "J_C", "std"]]).all(axis=None)
    np.testing.assert_allclose(table["J_C"], table["episode_cost"].expanding().mean(), rtol=1e-5)
    assert set(table["case"]) <= {0.0, 1.0, 2.0}


def test_the_published_table_is_compared_by_welchs_interval():
    theirs = validation.PUBLISHED["CPO"]
    ours = pd.DataFrame({"baseline": "CPO", "return": [19.0, 21.0, 20.6], "cost": [28.0, 31.0, 25.0]})
    table = validation.beside_published(ours).set_index(["baseline", "metric"])
    # Three numbers with the published mean and spread.
    made = {
        name: theirs[i] + theirs[i + 1] * np.array([-1, 0, 1]) for i, name in ((0, "return"), (2, "cost"))
    }
    for metric, values in made.items():
        test = stats.ttest_ind(ours[metric], values, equal_var=False)
        row = table.loc["CPO", metric]
        assert row.difference == pytest.approx(ours[metric].mean() - values.mean())
        assert [row.low, row.high] == pytest.approx([*test.confidence_interval(0.95)], rel=1e-6)
    assert table.loc["TRPO-Lag"].runs.eq(0).all() and table.loc["TRPO-Lag"].low.isna().all()
    assert len(validation.beside_published(ours[:0])) == 6
