"""What an update may do beyond one loss and one optimizer; with all of it a training is repeated and resumed exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from thesis_surrogates.core.config import OptimizerConfig, TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.optimization import OptimizerStep
from thesis_surrogates.core.plan import ParameterGroup, Phase, Plan, Update, describe, mean_loss
from thesis_surrogates.core.task_gradients import ProjectedGradients, project_conflicts
from thesis_surrogates.core.training import fit

X = torch.linspace(-1, 1, 96)[:, None]
ROWS = {"x": X, "y": X**3}


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def tasks(model, batch):
    error = model(batch["x"]) - batch["y"]
    parts = {"square": error.square().mean(), "size": error.abs().mean(), "zero": model(batch["x"]).square().mean()}
    return {"loss": sum(parts.values()), **parts}


def vectors(model):
    return [parameter for parameter in model.parameters() if parameter.dim() < 2]


def plan_of(*updates, loss_terms=tasks, epochs=3, **options):
    phase = Phase(name="toy", source=TensorSource(ROWS, 24, seed=0), updates=updates, epochs=epochs, **options)
    return Plan(phases=(phase,), validate=mean_loss(loss_terms, ROWS))


def train_in_pieces(plan, train, folder):
    """The model and the epochs of a training that is paused after every step."""
    ends, status = [], ""
    while status != "done":
        model = net()
        options = {"checkpoints": folder, "budget_seconds": 0.0, "callbacks": [ends.append]}
        status = fit(model, plan, seed=5, train=train, **options).status
    return model, [event.metrics for event in ends if event.moment == "epoch_end"]


def assert_exact(plan, train, folder):
    """Repeated and in pieces: the same weights and the same numbers."""
    results = []
    for _ in range(2):
        model, ends = net(), []
        fit(model, plan, seed=5, train=train, callbacks=[ends.append])
        results.append((model, [event.metrics for event in ends if event.moment == "epoch_end"]))
    results.append(train_in_pieces(plan, train, folder))
    for model, epochs in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][0].parameters(), model.parameters(), strict=True))
        assert str(epochs) == str(results[0][1])  # as text, in which NaN equals NaN


def test_projected_gradients_are_those_of_the_paper():
    first, second = torch.tensor([[3.0, 0.0], [-1.0, 2.0]])
    by_hand = (first - (first @ second) / (second @ second) * second) + (second - (first @ second) / 9.0 * first)
    assert torch.allclose(project_conflicts(torch.stack([first, second])), by_hand)
    agreeing = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    assert torch.equal(project_conflicts(agreeing), agreeing.sum(0))
    assert torch.equal(project_conflicts(torch.stack([first, torch.zeros(2)])), first), "a task without a gradient"


def test_projected_gradients_help_both_tasks_where_the_sum_does_not():
    """A steep task against a flat one: the step along the sum makes the flat one worse, the projected step neither."""
    steep, flat = torch.tensor([-10.0, 1.0]), torch.tensor([1.0, 0.2])
    projected = project_conflicts(torch.stack([steep, flat]))
    assert (steep + flat) @ flat < 0 <= min(projected @ flat, projected @ steep)


def test_a_term_that_is_no_task_is_named():
    update = Update(loss_terms=tasks, optimizer=OptimizerConfig(), gradients=ProjectedGradients(("square", "sise")))
    with pytest.raises(ConfigError, match="no loss term 'sise'; there are loss, square"):
        fit(net(), plan_of(update), seed=0, train=TrainConfig(epochs=1))


@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_projected_gradients_and_groups_are_repeated_and_resumed_exactly(tmp_path, optimizer):
    train = TrainConfig(epochs=3, optimizer={"name": optimizer, "learning_rate": 1e-2})
    groups = (ParameterGroup(name="vectors", parameters=vectors, weight_decay=0.0, rate=0.5),)
    rule = ProjectedGradients(("square", "size", "zero"))
    plan = plan_of(Update(loss_terms=tasks, optimizer=train.optimizer, groups=groups, gradients=rule))
    assert_exact(plan, train, tmp_path)
    plain = plan_of(Update(loss_terms=tasks, optimizer=train.optimizer))
    with pytest.raises(ConfigError, match="belongs to another training"):
        fit(net(), plain, seed=5, train=train, checkpoints=tmp_path)
    assert "projected, of square, size, zero" in describe(plan)
    assert "group vectors: vectors, weight decay 0, rate times 0.5" in describe(plan)


def test_the_sum_of_tasks_given_as_a_rule_is_the_usual_training():
    def of_the_sum(terms, parameters):
        return torch.autograd.grad(terms["loss"], parameters)

    train = TrainConfig(epochs=2)
    update = Update(loss_terms=tasks, optimizer=train.optimizer)
    models = [net(), net()]
    for model, rule in zip(models, (None, of_the_sum), strict=True):
        fit(model, plan_of(replace(update, gradients=rule)), seed=0, train=train)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def still(model, batch):
    """A loss that no parameter changes: what moves is moved by the weight decay."""
    return {"loss": 0.0 * sum(parameter.sum() for parameter in model.parameters())}


def test_a_group_has_its_own_weight_decay_and_rate():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    groups = (
        ParameterGroup(name="vectors", parameters=vectors, weight_decay=0.0),
        ParameterGroup(name="head", parameters=lambda model: model[1].parameters(), rate=0.5),
    )
    descent = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.2)
    update = Update(loss_terms=still, optimizer=descent, groups=groups)
    phase = Phase(name="toy", source=TensorSource(ROWS, 96, seed=0), updates=(update,), epochs=9)
    mover = OptimizerStep(model, update, phase, TrainConfig(), torch.device("cpu"))
    mover.step(model, ROWS, 0)
    kept = [float((after.detach() / old).mean()) for after, old in zip(model.parameters(), before, strict=True)]
    assert kept == pytest.approx([1 - 0.1 * 0.2, 1.0, 1 - 0.05 * 0.2, 1.0], rel=1e-6)
    assert [group["lr"] for group in mover.optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.05], rel=1e-6)


def test_a_group_without_parameters_is_refused():
    group = ParameterGroup(name="nothing", parameters=lambda model: [])
    update = Update(loss_terms=tasks, optimizer=OptimizerConfig(), groups=(group,))
    with pytest.raises(ConfigError, match="group 'nothing' of update 'model' has no parameters"):
        fit(net(), plan_of(update), seed=0, train=TrainConfig(epochs=1))
