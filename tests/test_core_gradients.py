"""A plan may bring loss and gradient at once; clip, guard, schedule, record and resume are those of any training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from thesis_surrogates.core.config import OptimizerConfig, TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.optimization import guard_gradients
from thesis_surrogates.core.plan import ParameterGroup, Phase, Plan, Update, describe, mean_loss
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.core.training import fit

X = torch.linspace(-1, 1, 96, dtype=torch.float64)[:, None]
ROWS = {"x": X, "y": X**3}
TRAIN = TrainConfig()
DESCENT = OptimizerConfig(learning_rate=1e-2)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def terms(model, batch):
    error = model(batch["x"]) - batch["y"]
    return {"loss": error.square().mean(), "size": error.abs().mean()}


def kernel(model, batch, parameters):
    """Loss and gradient of the network by hand, in numpy, as a compiled program would give them."""
    x, y = (batch[name].numpy() for name in ("x", "y"))
    weight, offset, out, bias = (parameter.detach().numpy() for parameter in parameters)
    hidden = np.tanh(x @ weight.T + offset)
    error = hidden @ out.T + bias - y
    behind = 2 / len(x) * error
    inside = (behind @ out) * (1 - hidden**2)
    found = (inside.T @ x, inside.sum(0), behind.T @ hidden, behind.sum(0))
    numbers = {"loss": np.square(error).mean(), "size": np.abs(error).mean()}
    return {name: torch.tensor(value) for name, value in numbers.items()}, [torch.from_numpy(one) for one in found]


def by_autograd(model, batch, parameters):
    found = terms(model, batch)
    return found, torch.autograd.grad(found["loss"], list(parameters))


USUAL = Update(loss_terms=terms, optimizer=DESCENT)
BY_HAND = Update(loss_and_gradients=kernel, optimizer=DESCENT)


def plan_of(update, rows=ROWS, epochs=4, **options):
    phase = Phase(name="toy", source=TensorSource(rows, 24, seed=0), updates=(update,), epochs=epochs, **options)
    return Plan(phases=(phase,), validate=mean_loss(terms, ROWS))


def trained(plan, train=TRAIN, **options):
    model, events = net(), []
    fit(model, plan, seed=3, train=train, callbacks=[events.append], **options)
    return model, [event.metrics for event in events if event.moment == "epoch_end"]


def weights_of(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def test_the_gradient_by_hand_is_that_of_autograd():
    model = net()
    parameters = list(model.parameters())
    (usual, ready), (other, by_hand) = (make(model, ROWS, parameters) for make in (by_autograd, kernel))
    for one, two in zip((*usual.values(), *ready), (*other.values(), *by_hand), strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("clip", [None, 1e-2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "radam"])
def test_a_training_by_hand_is_the_usual_one(optimizer, clip):
    descent = OptimizerConfig(name=optimizer, learning_rate=1e-3)
    results = [
        trained(plan_of(replace(update, optimizer=descent), gradient_clip=clip))
        for update in (USUAL, BY_HAND, replace(BY_HAND, loss_and_gradients=by_autograd))
    ]
    (usual, epochs), (by_hand, other), (same, equal) = results
    assert torch.equal(weights_of(usual), weights_of(same)) and epochs == equal, "bit by bit"
    assert torch.allclose(weights_of(usual), weights_of(by_hand), rtol=1e-8)
    for one, two in zip(epochs, other, strict=True):
        assert one["validation"] == pytest.approx(two["validation"], rel=1e-8)
        assert one["train"] == pytest.approx(two["train"], rel=1e-8)


def test_groups_and_every_second_step_are_those_of_every_update():
    slow = ParameterGroup(name="head", parameters=lambda model: model[2].parameters(), weight_decay=0.0, rate=0.1)
    results = [trained(plan_of(replace(update, groups=(slow,), every=2))) for update in (USUAL, BY_HAND)]
    assert torch.allclose(weights_of(results[0][0]), weights_of(results[1][0]), rtol=1e-8)


def test_it_is_resumed_exactly_and_recorded(tmp_path):
    whole, epochs = trained(plan_of(BY_HAND))
    ends, status = [], ""
    while status != "done":
        model = net()
        options = {"checkpoints": tmp_path / "pieces", "budget_seconds": 0.0, "callbacks": [ends.append]}
        status = fit(model, plan_of(BY_HAND), seed=3, train=TRAIN, **options).status
    assert torch.equal(weights_of(whole), weights_of(model))
    assert [event.metrics for event in ends if event.moment == "epoch_end"] == epochs
    config = {"system": "toy", "name": "kernel", "model": {}, "data": {}, "train": {}, "seed": 0}
    with open_run(tmp_path / "run", config, provenance={}) as recorder:
        fit(net(), plan_of(BY_HAND), seed=3, train=TRAIN, callbacks=[recorder])
    assert read_run(tmp_path / "run").curve("train", "size").tolist() == [epoch["train"]["size"] for epoch in epochs]


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted():
    rows = {**ROWS, "y": ROWS["y"].clone()}
    rows["y"][7] = math.nan
    model, epochs = trained(plan_of(BY_HAND, rows))
    assert [epoch["train"]["bad_steps"] for epoch in epochs] == [1.0] * 4
    assert torch.isfinite(weights_of(model)).all()


def test_the_plan_names_what_brings_its_gradient(tmp_path):
    assert "on kernel and its gradient, clip 1.0" in describe(plan_of(BY_HAND))
    trained(plan_of(BY_HAND), checkpoints=tmp_path)
    with pytest.raises(ConfigError, match="belongs to another training"):
        trained(plan_of(USUAL), checkpoints=tmp_path)


@pytest.mark.parametrize(
    "given",
    [{}, {"loss_terms": terms, "loss_and_gradients": kernel}, {"loss_and_gradients": kernel, "gradients": kernel}],
)
def test_an_update_has_one_way_to_its_gradient(given):
    with pytest.raises(ConfigError, match="give loss_terms .and gradients., or loss_and_gradients alone"):
        Update(optimizer=DESCENT, **given)


@pytest.mark.parametrize("setting", [{"amp": "bfloat16"}, {"compile": True}])
def test_what_has_no_effect_is_refused_before_training(setting):
    later = replace(plan_of(BY_HAND).phases[0], name="later")
    plan = replace(plan_of(USUAL), phases=(plan_of(USUAL).phases[0], later))
    events = []
    with pytest.raises(ConfigError, match="update 'model' of phase 'later' brings its own gradient"):
        fit(net(), plan, seed=0, train=TrainConfig(**setting), callbacks=[events.append])
    assert not events


@pytest.mark.parametrize(
    "wrong", [lambda all: all[:-1], lambda all: all[::-1], lambda all: [one.float() for one in all]]
)
def test_gradients_that_do_not_fit_are_named(wrong):
    def bad(model, batch, parameters):
        found, gradients = kernel(model, batch, parameters)
        return found, wrong(gradients)

    with pytest.raises(ConfigError, match=r"do not fit the parameters \['\[8, 1\] torch.float64'"):
        trained(plan_of(replace(BY_HAND, loss_and_gradients=bad)))


def guard_of_before(parameters, loss, clip):
    """The guard as it was, without a decision on the host; on a GPU it still is."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    sound = torch.isfinite(norm) & torch.isfinite(loss)
    scale = torch.ones_like(norm) if clip is None else (clip / (norm + 1e-6)).clamp(max=1.0)
    scale = torch.where(sound, scale, torch.zeros_like(scale))
    for parameter in parameters:
        parameter.grad.nan_to_num_(0.0, 0.0, 0.0).mul_(scale)
    return sound


@pytest.mark.parametrize("clip", [None, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("poison", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_guard_is_that_of_before_to_the_last_bit(clip, poison, dtype):
    for where in ("gradient", "loss") if poison is not None else ("nothing",):
        results = []
        for guard in (guard_gradients, guard_of_before):
            random = torch.Generator().manual_seed(1)
            model = nn.Linear(7, 3).to(dtype)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=random, dtype=dtype)
            if where == "gradient":
                model.bias.grad[1] = poison
            loss = torch.tensor(poison if where == "loss" else 1.0, dtype=dtype)
            sound = guard(list(model.parameters()), loss, clip)
            results.append((bool(sound), torch.cat([parameter.grad.ravel() for parameter in model.parameters()])))
        assert results[0][0] == results[1][0] == (poison is None)
        assert torch.equal(results[0][1], results[1][1])
