"""Phases that know steps and validations, keep their optimizer and their best weights; killed anywhere, they go on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from thesis_surrogates.core import training_state
from thesis_surrogates.core.checkpoints import load_checkpoint
from thesis_surrogates.core.config import OptimizerConfig, ScheduleConfig, TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.plan import Phase, Plan, Update, describe, list_trainable, mean_loss
from thesis_surrogates.core.training import TrainingDiverged, fit

X = torch.linspace(-1, 1, 96)[:, None]
ROWS = {"x": X, "y": X**3}
TRAIN = TrainConfig(batch_size=24)


def terms(model, batch):
    return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}


def net(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def phase(name="toy", optimizer="adamw", batch=24, parameters=list_trainable, **options):
    descent = OptimizerConfig(name=optimizer, learning_rate=options.pop("rate", 1e-2))
    update = Update(loss_terms=terms, optimizer=descent, parameters=parameters)
    source = TensorSource(ROWS, batch, seed=len(name), shuffle=batch < len(X))
    return Phase(name=name, source=source, updates=(update,), **options)


def plan_of(*phases, **options):
    return Plan(phases=phases, validate=mean_loss(terms, ROWS), **options)


def trained(plan, dropout=0.0, **options):
    """The model after a training, and its events."""
    model, events = net(dropout), []
    fit(model, plan, seed=3, train=TRAIN, callbacks=[events.append], **options)
    return model, events


def weights_of(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def ends_of(events):
    return [event for event in events if event.moment == "epoch_end"]


def test_steps_that_are_no_multiple_are_all_taken_and_validated_at_the_end():
    constant = ScheduleConfig(name="cosine", floor=0.1)
    _, events = trained(plan_of(phase(steps=23, validate_every=5, schedule=constant)))
    assert [event.step for event in ends_of(events)] == [5, 10, 15, 20, 23]
    assert events[0].details["epochs"] == 5
    rates = [event.metrics["train"]["learning_rate"] for event in ends_of(events)]
    assert rates[-1] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 22 / 23))))


@pytest.mark.parametrize("given", [{"steps": 20, "validate_every": 5}, {"steps": 20, "validate_every": None}])
def test_a_length_in_steps_is_the_training_of_the_same_length_in_epochs(given):
    every = given["validate_every"] or 4
    plans = plan_of(phase(**given)), plan_of(phase(epochs=20 // every, steps_per_epoch=every))
    assert describe(plans[0]) == describe(plans[1])
    (one, first), (other, second) = (trained(plan) for plan in plans)
    assert torch.equal(weights_of(one), weights_of(other))
    assert [event.metrics for event in ends_of(first)] == [event.metrics for event in ends_of(second)]


def test_a_phase_shorter_than_its_first_validation_is_validated_once():
    _, events = trained(plan_of(phase(steps=3, validate_every=100)))
    assert [event.step for event in ends_of(events)] == [3]


@pytest.mark.parametrize(
    "length",
    [
        {},
        {"epochs": 2, "steps": 9},
        {"epochs": 2, "validate_every": 3},
        {"steps": 9, "steps_per_epoch": 3},
        {"steps": 0},
        {"steps": 9, "validate_every": 0},
        {"validate_every": 3},
    ],
)
def test_a_length_that_says_too_much_or_too_little_is_refused(length):
    with pytest.raises(ConfigError, match="give epochs .* or steps"):
        phase(**length)


def test_a_short_last_epoch_of_bad_steps_ends_the_training():
    bad = {**ROWS, "y": torch.where(X > 0.98, math.nan, X)}
    source = TensorSource(bad, 8, seed=0, shuffle=False)  # the last of twelve batches is bad
    diverging = replace(phase(steps=12, validate_every=11), source=source)
    with pytest.raises(TrainingDiverged, match="1 steps without a finite gradient"):
        trained(plan_of(diverging))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "radam", "nadam", "soap", "adabelief"])
def test_a_kept_optimizer_makes_two_phases_one_training(optimizer):
    shape = {"optimizer": optimizer, "batch": 96, "schedule": ScheduleConfig(name="constant"), "validate_every": 6}
    whole, _ = trained(plan_of(phase(steps=12, **shape)))
    kept, _ = trained(plan_of(phase(steps=6, **shape), phase("more", steps=6, keep_optimizer=True, **shape)))
    fresh, _ = trained(plan_of(phase(steps=6, **shape), phase("more", steps=6, **shape)))
    assert torch.equal(weights_of(whole), weights_of(kept))
    assert optimizer == "sgd" or not torch.equal(weights_of(whole), weights_of(fresh))


def test_a_kept_optimizer_takes_the_rate_and_weight_decay_of_its_phase():
    first = phase(steps=4)
    descent = OptimizerConfig(learning_rate=3e-3, weight_decay=0.5)
    second = replace(first, keep_optimizer=True, updates=(replace(first.updates[0], optimizer=descent),))
    stages = []
    for each in (first, second):
        stages.append(training_state.Stage(net(), each, TRAIN, torch.device("cpu")))
        stages[-1].movers[0].step(stages[-1].model, ROWS, 0)
    before = stages[0].movers[0].state()["optimizer"]["state"]
    stages[1].go_on_from(stages[0].states())
    (group,) = stages[1].movers[0].optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (3e-3, 0.5)
    assert torch.equal(stages[1].movers[0].optimizer.state_dict()["state"][0]["exp_avg"], before[0]["exp_avg"])


def test_an_optimizer_that_cannot_be_kept_is_refused_before_training():
    first = phase(steps=4)
    with pytest.raises(ConfigError, match=r"phase 'toy' keeps .* has \['model: adamw'\] where that has \[\]"):
        plan_of(replace(first, keep_optimizer=True))
    with pytest.raises(ConfigError, match=r"\['model: sgd'\] where that has \['model: adamw'\]"):
        plan_of(first, phase("more", "sgd", steps=4, keep_optimizer=True))
    last = phase("last", steps=4, keep_optimizer=True, parameters=lambda model: model[3].parameters())
    events = []
    with pytest.raises(ConfigError, match="phase 'last' .* moves other parameters than in phase 'toy'"):
        fit(net(), plan_of(first, last), seed=0, train=TRAIN, callbacks=[events.append])
    assert not events


def test_the_best_of_each_phase_is_kept_where_a_plan_asks_for_it(tmp_path):
    values, snapshots = iter([3.0, 1.0, 2.0, 9.0, math.nan, 4.0, 5.0]), []

    def validate(model):
        snapshots.append(weights_of(model))
        return {"loss": next(values)}

    phases = (phase(steps=3, validate_every=1), phase("more", steps=4, validate_every=1))
    trained(Plan(phases=phases, validate=validate, best_per_phase=True), checkpoints=tmp_path)
    found = {path.name: load_checkpoint(path) for path in tmp_path.glob("best*.pt")}
    assert {name: (state["epoch"], state["value"]) for name, state in found.items()} == {
        "best.pt": (1, 1.0),
        "best_phase_1.pt": (1, 1.0),
        "best_phase_2.pt": (5, 4.0),
    }
    for state in found.values():
        model = net()
        model.load_state_dict(state["model"])
        assert torch.equal(weights_of(model), snapshots[state["epoch"]])


def test_nothing_is_kept_of_a_phase_unless_asked_for(tmp_path):
    trained(plan_of(phase(steps=3), phase("more", steps=3)), checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    assert sorted(load_checkpoint(tmp_path / "last.pt")) == sorted(
        ["loop", "model", "progress", "rng", "rows", "seed", "sums", "updates"]
    ), "and the checkpoint has the form that it always had"


def all_at_once():
    """Every option together, with dropout in the model."""
    return plan_of(
        phase(steps=7, validate_every=3),
        phase("more", steps=5, validate_every=2, keep_optimizer=True, rate=3e-3),
        phase("again", epochs=2),
        best_per_phase=True,
    )


class Killed(BaseException):
    """What a signal would do, at a place of our choice."""


def contents(folder):
    """The weights, epochs and values of all files of best weights, as text."""
    return {path.name: str(load_checkpoint(path)) for path in folder.glob("best*.pt")}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, 25))
def test_killed_at_any_write_it_goes_on_exactly(tmp_path, monkeypatch, write, when):
    whole, events = trained(all_at_once(), dropout=0.2, checkpoints=tmp_path / "whole")
    real, count = training_state.save_checkpoint, 0

    def deadly(path, values):
        nonlocal count
        count += 1
        if count == write and when == "before":
            raise Killed
        real(path, values)
        if count == write:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(training_state, "save_checkpoint", deadly)
        with pytest.raises(Killed):
            trained(all_at_once(), dropout=0.2, checkpoints=tmp_path / "killed")
    model, rest = trained(all_at_once(), dropout=0.2, checkpoints=tmp_path / "killed")
    assert torch.equal(weights_of(whole), weights_of(model))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
    known = {event.epoch: event.metrics for event in ends_of(events)}
    assert all(event.metrics == known[event.epoch] for event in ends_of(rest))


def test_in_pieces_it_gives_the_same(tmp_path):
    whole, events = trained(all_at_once(), dropout=0.2, checkpoints=tmp_path / "whole")
    pieces, status = [], ""
    while status != "done":
        model = net(0.2)
        status = fit(
            model,
            all_at_once(),
            seed=3,
            train=TRAIN,
            checkpoints=tmp_path / "pieces",
            budget_seconds=0.0,
            callbacks=[pieces.append],
        ).status
    assert torch.equal(weights_of(whole), weights_of(model))
    assert [event.metrics for event in ends_of(events)] == [event.metrics for event in ends_of(pieces)]
    assert contents(tmp_path / "whole") == contents(tmp_path / "pieces")
