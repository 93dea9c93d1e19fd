"""What an update may do beyond one loss and one optimizer; with it, a training is repeated and resumed exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from thesis_surrogates.core.adabelief import AdaBelief
from thesis_surrogates.core.config import OptimizerConfig, ScheduleConfig, TrainConfig, check, hash_canonical
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.finite_rows import mean_of_finite_rows, select_rows
from thesis_surrogates.core.optimization import OptimizerStep, make_optimizer
from thesis_surrogates.core.plan import Companion, ParameterGroup, Phase, Plan, Update, Watcher, describe, mean_loss
from thesis_surrogates.core.recorder import fits_table, open_run
from thesis_surrogates.core.running_means import LEFT_OUT
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


def test_heads_keep_their_own_gradient_where_only_a_trunk_is_shared():
    trunk, head, other = (nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(k))) for k in range(3))
    both = [trunk, head, other]

    def conflict():
        return {"one": (trunk * head).sum() ** 2 + head.sum(), "two": 4 * (trunk.sum() - other.sum()) ** 2}

    parts = [torch.autograd.grad(term, both, materialize_grads=True) for term in conflict().values()]
    assert float(parts[0][0] @ parts[1][0]) < 0, "tasks that agree test nothing"
    found = ProjectedGradients(("one", "two"), shared=(trunk,))(conflict(), both)
    assert torch.equal(found[1], parts[0][1]) and torch.equal(found[2], parts[1][2])
    torch.testing.assert_close(found[0], project_conflicts(torch.stack([parts[0][0], parts[1][0]])))
    for part in (parts[0][0], parts[1][0]):
        assert float(found[0] @ part) >= -1e-5, "no task is made worse"
    assert not torch.equal(ProjectedGradients(("one", "two"))(conflict(), both)[1], parts[0][1])
    still = ProjectedGradients(("still", "one"))({"still": torch.tensor(3.0), **conflict()}, both)
    assert all(torch.equal(a, b) for a, b in zip(still, parts[0], strict=True)), "a task that nothing moves"


class Shares(Companion):
    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(2))

    def reset_parameters(self):
        nn.init.zeros_(self.raw)


def test_a_companion_is_trained_beside_the_model_repeated_and_resumed_exactly(tmp_path):
    shares = Shares()

    def weighed(model, batch):
        parts = tasks(model, batch)
        first, second = shares.raw
        loss = torch.exp(-first) * parts["square"] + first + torch.exp(-second) * parts["size"] + second
        return {"loss": loss, "first": first.detach().clone()}

    own = ParameterGroup(name="shares", parameters=lambda model: shares.parameters(), weight_decay=0.0)
    update = Update(loss_terms=weighed, optimizer=OptimizerConfig(), companion=shares, groups=(own,))
    plan, train = plan_of(update), TrainConfig()
    assert "beside the model: Shares" in describe(plan)
    assert_exact(plan, train, tmp_path)
    assert (shares.raw != 0).all() and not any("raw" in name for name in net().state_dict())
    assert (
        OptimizerStep(net(), update, plan.phases[0], train, torch.device("cpu")).state()["companion"]["raw"].eq(0).all()
    )


def test_a_plateau_ends_the_training_at_the_smallest_rate_if_asked(tmp_path):
    down = {"name": "plateau", "patience": 0, "factor": 0.1, "floor": 0.01}
    update = Update(loss_terms=tasks, optimizer=OptimizerConfig())

    def epochs(folder=None, **more):
        options = ScheduleConfig(**down, **more)
        plan = replace(plan_of(update, epochs=20, schedule=options), validate=lambda model: {"loss": 1.0})
        if folder is not None:
            return len(train_in_pieces(plan, TrainConfig(), folder)[1])
        return fit(net(), plan, seed=5, train=TrainConfig()).epochs

    assert epochs() == 20 and epochs(stop_at_floor=True) == 3 == epochs(tmp_path, stop_at_floor=True)
    assert "stop_at_floor" not in ScheduleConfig(**down).model_dump()
    for wrong in ({"name": "cosine"}, {"name": "plateau", "floor": 0.0}):
        with pytest.raises(ConfigError, match="stop_at_floor needs"):
            check(ScheduleConfig, {**wrong, "stop_at_floor": True})


def test_without_a_warm_up_the_first_step_has_the_whole_rate():
    update = Update(loss_terms=tasks, optimizer=OptimizerConfig(learning_rate=0.5))
    for warmup in (0, 0.1):
        plan = plan_of(update, schedule=ScheduleConfig(name="constant", warmup_epochs=warmup))
        mover = OptimizerStep(net(), update, plan.phases[0], TrainConfig(), torch.device("cpu"))
        mover.step(net(), ROWS, 0)
        assert mover.optimizer.param_groups[0]["lr"] == 0.5


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


def growing(model, batch):
    """A loss of rows that leaves the numbers where the input is large, behind a network that is finite there."""
    grown = (model(batch["x"]) * batch["x"]).square().exp()
    return {"loss": (grown - batch["y"]).square()[:, 0], "size": grown.abs()[:, 0]}


def mean_growing(model, batch):
    return {name: value.mean() for name, value in growing(model, batch).items()}


def rows_with(*bad, count=48):
    x = torch.linspace(-1, 1, count)[:, None].clone()
    x[list(bad)] = 1e10
    return {"x": x, "y": torch.zeros(count, 1)}


def small_net(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()


def as_double(rows):
    return {name: value.double() for name, value in rows.items()}


def test_a_diverged_row_is_no_part_of_loss_and_gradient():
    rows, model = as_double(rows_with(5, 7)), small_net()
    kept = torch.tensor([row not in (5, 7) for row in range(48)])
    losses = growing(model, rows)["loss"]
    masked = torch.where(losses.isfinite(), losses, 0.0).sum() / kept.sum()
    gradients = torch.autograd.grad(masked, list(model.parameters()))
    assert masked.isfinite() and not all(g.isfinite().all() for g in gradients), "a mask behind the loss is no cure"
    found = mean_of_finite_rows(growing)(model, rows)
    clean = mean_growing(model, select_rows(rows, kept))
    assert found[LEFT_OUT] == 2 and found["loss"] == clean["loss"] and found["size"] == clean["size"]
    for one, other in zip(
        torch.autograd.grad(found["loss"], list(model.parameters())),
        torch.autograd.grad(clean["loss"], list(model.parameters())),
        strict=True,
    ):
        assert torch.equal(one, other)


def masked_plan(rows, validation, train, batch=8):
    loss = mean_of_finite_rows(growing)
    update = Update(loss_terms=loss, optimizer=train.optimizer)
    phase = Phase(name="toy", source=TensorSource(rows, batch, seed=0), updates=(update,), epochs=train.epochs)
    return Plan(phases=(phase,), validate=mean_loss(loss, validation, batch_size=10))


def test_diverged_rows_are_counted_in_training_and_validation():
    train, ends = TrainConfig(epochs=2, optimizer={"learning_rate": 1e-2}), []
    plan = masked_plan(as_double(rows_with(5, 7, 30)), as_double(rows_with(47)), train)
    model = small_net()
    fit(model, plan, seed=0, train=train, callbacks=[ends.append])
    epochs = [event.metrics for event in ends if event.moment == "epoch_end"]
    assert [epoch["train"][LEFT_OUT] for epoch in epochs] == [3.0, 3.0]
    assert [epoch["validation"][LEFT_OUT] for epoch in epochs] == [1.0, 1.0]
    assert all("bad_steps" not in epoch["train"] and math.isfinite(epoch["train"]["loss"]) for epoch in epochs)
    clean = mean_loss(mean_growing, {name: value[:47] for name, value in as_double(rows_with()).items()})(small_net())
    judged = plan.validate(small_net())
    assert judged["loss"] == pytest.approx(clean["loss"], rel=1e-12)


def test_a_validation_that_loses_most_rows_is_no_number():
    rows = as_double(rows_with(*range(30)))
    judged = mean_loss(mean_of_finite_rows(growing), rows, batch_size=10)(small_net())
    assert math.isnan(judged["loss"]) and judged[LEFT_OUT] == 30
    few = as_double(rows_with(*range(10)))
    judged = mean_loss(mean_of_finite_rows(growing), few, batch_size=10)(small_net())
    assert math.isfinite(judged["loss"]) and judged[LEFT_OUT] == 10, "a batch without a finite row is left out whole"


def test_a_batch_without_a_finite_row_is_a_bad_step_and_counted():
    rows, train, ends = as_double(rows_with(*range(8))), TrainConfig(epochs=1), []
    plan = masked_plan({name: value[:9] for name, value in rows.items()}, as_double(rows_with()), train, batch=1)
    with pytest.raises(Exception, match="8 steps without a finite gradient"):
        fit(small_net(), plan, seed=0, train=train, callbacks=[ends.append])
    (epoch,) = [event.metrics["train"] for event in ends if event.moment == "epoch_end"]
    assert (epoch["bad_steps"], epoch[LEFT_OUT]) == (8.0, 8.0)


def test_training_on_finite_rows_is_repeated_and_resumed_exactly(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "net", lambda: small_net(dropout=0.2))
    train = TrainConfig(epochs=3, optimizer={"learning_rate": 1e-2})
    assert_exact(masked_plan(as_double(rows_with(5, 7, 30)), as_double(rows_with(47)), train), train, tmp_path)


def test_what_no_row_can_be_taken_from_is_refused():
    with pytest.raises(ConfigError, match=r"shape \[24, 1\], not \[24\]"):
        mean_of_finite_rows(lambda model, batch: {"loss": model(batch["x"])})(net(), {"x": X[:24]})
    with pytest.raises(ConfigError, match="3 rows, its loss 2"):
        select_rows({"a": torch.zeros(2), "b": {"c": torch.zeros(3)}}, torch.tensor([True, False]))


def meddle(model, data, epoch):
    """Draws random numbers, and does to the model what must not reach the training."""
    torch.rand(epoch)
    torch.manual_seed(epoch)
    torch.set_grad_enabled(False)
    model.train()
    model.register_forward_hook(lambda *of_call: None)
    for parameter in model.parameters():
        parameter.fill_(math.nan)
    return {"rows": len(data["x"]), "epoch": epoch}


def fail(model, data, epoch):
    raise ArithmeticError(f"epoch {epoch}")


def watched_plan(*watchers, epochs=10):
    plain = plan_of(Update(loss_terms=tasks, optimizer=OptimizerConfig(learning_rate=1e-2)), epochs=epochs)
    return plain, replace(plain, watchers=watchers)


def test_watchers_do_not_change_a_training_and_are_repeated_and_resumed_exactly(tmp_path):
    train, models, ends = TrainConfig(epochs=10), [net(), net()], []
    plans = watched_plan(
        Watcher(name="meddler", look=meddle, data=ROWS, at_most=3), Watcher(name="broken", look=fail, every=5)
    )
    for model, plan in zip(models, plans, strict=True):
        fit(model, plan, seed=5, train=train, callbacks=[ends.append])
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    epochs = [event.metrics for event in ends if event.moment == "epoch_end"]
    assert [{k: epoch[k] for k in ("train", "validation")} for epoch in epochs[10:]] == epochs[:10]
    looks = [epoch["meddler"] for epoch in epochs[10:] if "meddler" in epoch]
    assert looks == [{"rows": 96.0, "epoch": 4.0}, {"rows": 96.0, "epoch": 8.0}], "bounded, over the whole training"
    failed = [event for event in ends if event.moment == "watcher_failed"]
    assert [(event.epoch, event.details["message"]) for event in failed] == [(4, "epoch 5"), (9, "epoch 10")]
    assert {event.details["watcher"] for event in failed} == {"broken"} and {e.phase for e in failed} == {"toy"}
    assert_exact(plans[1], train, tmp_path)


@pytest.mark.parametrize("numbers", [{"a,b": 1.0}, {"a": "many"}, [1.0], {"a": [1, 2]}])
def test_what_cannot_be_recorded_does_not_end_a_run(tmp_path, numbers):
    _, plan = watched_plan(Watcher(name="odd", look=lambda *of_look: numbers, at_most=1), epochs=2)
    train = TrainConfig(epochs=2)
    config = {"system": "toy", "name": "odd", "model": {}, "data": {}, "train": {}, "seed": 0}
    with open_run(tmp_path / "run", config, provenance={}) as recorder:
        assert fit(net(), plan, seed=0, train=train, callbacks=[recorder]).status == "done"
    found = read_run(tmp_path / "run")
    (failed,) = [event for event in found.events if event["moment"] == "watcher_failed"]
    assert fits_table(failed) and failed["watcher"] == "odd" and set(found.scalars.split) == {"train", "validation"}


def test_numbers_of_a_watcher_are_recorded(tmp_path):
    _, plan = watched_plan(Watcher(name="size", look=lambda model, data, epoch: {"epoch": epoch}, every=2), epochs=4)
    config = {"system": "toy", "name": "size", "model": {}, "data": {}, "train": {}, "seed": 0}
    with open_run(tmp_path / "run", config, provenance={}) as recorder:
        fit(net(), plan, seed=0, train=TrainConfig(epochs=4), callbacks=[recorder])
    assert read_run(tmp_path / "run").curve("size", "epoch").to_dict() == {1: 2.0, 3: 4.0}


def test_an_interruption_in_a_watcher_ends_the_training():
    def interrupted(*of_look):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), watched_plan(Watcher(name="slow", look=interrupted))[1], seed=0, train=TrainConfig(epochs=1))


@pytest.mark.parametrize("wrong", [{"name": "train"}, {"every": 0}, {"at_most": 0}])
def test_a_watcher_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="at_most >= 1"):
        Watcher(**{"name": "w", "look": fail, **wrong})


def test_adabelief_is_the_published_formula():
    """Algorithm 2 of Zhuang et al. 2020, number by number, with the weight decay of AdamW beside it."""
    rate, decay, beta1, beta2, eps = 0.1, 0.01, 0.9, 0.999, 1e-3
    gradients = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = AdaBelief([weight], lr=rate, weight_decay=decay, eps=eps)
    place, mean, spread = 1.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        mean = beta1 * mean + (1 - beta1) * gradient
        spread = beta2 * spread + (1 - beta2) * (gradient - mean) ** 2 + eps
        place *= 1 - rate * decay
        place -= rate * (mean / (1 - beta1**step)) / (math.sqrt(spread / (1 - beta2**step)) + eps)
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        assert float(weight.detach()) == pytest.approx(place, rel=1e-12)


def test_adabelief_is_named_by_a_configuration_and_leaves_the_others_alone():
    optimizer = make_optimizer(OptimizerConfig(name="adabelief", weight_decay=0.3), [nn.Parameter(torch.ones(1))])
    assert isinstance(optimizer, AdaBelief) and optimizer.param_groups[0]["weight_decay"] == 0.3
    assert hash_canonical(TrainConfig().model_dump(mode="json")) == "b04e302dbe"


def test_adabelief_trains_and_leaves_alone_what_has_no_gradient():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    frozen = nn.Parameter(torch.ones(3))
    optimizer = AdaBelief([*model.parameters(), frozen], lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = tasks(model, ROWS)["square"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0] and torch.equal(frozen, torch.ones(3))
