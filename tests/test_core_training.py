"""The training loop: exact resume after pauses and kills, and what it refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from thesis_surrogates.core.checkpoints import load_checkpoint
from thesis_surrogates.core.config import ScheduleConfig, TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.plan import Phase, Plan, Update, mean_loss, supervised_plan
from thesis_surrogates.core.training import TrainingDiverged, fit

X = torch.linspace(-1, 1, 100)[:, None]
ROWS = {"x": X, "y": X**3}


def terms(model, batch):
    return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


def phased(train):
    def phase(name, epochs, rate, steps=None):
        return Phase(
            name=name,
            source=TensorSource(ROWS, 32, seed=len(name)),
            epochs=epochs,
            steps_per_epoch=steps,
            schedule=train.schedule,
            updates=(Update(loss_terms=terms, optimizer=train.optimizer.model_copy(update={"learning_rate": rate})),),
        )

    return Plan(phases=(phase("short", 3, 1e-2, 3), phase("longer", 4, 3e-3)), validate=mean_loss(terms, ROWS))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "radam", "soap", "adabelief"])
def test_pieces_give_the_numbers_of_the_whole(tmp_path, schedule, optimizer):
    train = TrainConfig(
        epochs=3, batch_size=32, optimizer={"name": optimizer}, schedule={"name": schedule, "patience": 0}
    )
    plan = phased(train)
    whole, events, pieces_events = net(), [], []
    fit(whole, plan, seed=5, train=train, callbacks=[events.append])
    status = ""
    while status != "done":
        pieces = net()
        status = fit(
            pieces,
            plan,
            seed=5,
            train=train,
            checkpoints=tmp_path,
            budget_seconds=0.0,
            callbacks=[pieces_events.append],
        ).status
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))
    ends = [[e.metrics for e in stream if e.moment == "epoch_end"] for stream in (events, pieces_events)]
    assert ends[0] == ends[1], "every epoch is reported once, with the same numbers (dropout included)"


SCRIPT = """
import sys, json, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from test_core_training import net, phased, TrainConfig, fit
torch.set_num_threads(1)
train = TrainConfig(epochs=3, batch_size=32)
model = net()
slow = lambda event: time.sleep(0.03)
fit(model, phased(train), seed=5, train=train, checkpoints=Path(sys.argv[2]), callbacks=[slow])
print(json.dumps([p.tolist() for p in model.parameters()]))
"""


def test_killed_at_random_moments_it_still_gives_the_same_weights(tmp_path):
    rng, output = random.Random(0), ""
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
    for kill in range(4):
        process = subprocess.Popen([*command, str(tmp_path / "run")], stdout=subprocess.PIPE)
        while not (tmp_path / "run" / "last.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=True).stdout
    output = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True, check=True).stdout
    assert json.loads(killed) == json.loads(output)


def test_another_plan_or_seed_is_refused(tmp_path):
    train = TrainConfig(epochs=2, batch_size=32)
    fit(net(), phased(train), seed=5, train=train, checkpoints=tmp_path, budget_seconds=0.0)
    with pytest.raises(ConfigError, match="belongs to another training"):
        fit(net(), phased(train), seed=6, train=train, checkpoints=tmp_path)


def test_early_stopping_ends_the_phase_not_the_plan():
    train = TrainConfig(epochs=50, batch_size=100, early_stopping=2, min_delta=1e9)
    phases = []
    fit(net(), phased(train), seed=0, train=train, callbacks=[lambda e: phases.append((e.moment, e.phase))])
    assert [phase for moment, phase in phases if moment == "phase_start"] == ["short", "longer"]
    assert sum(moment == "epoch_end" for moment, _ in phases) < 7


def test_the_best_epoch_is_what_remains():
    values = iter([3.0, 1.0, 2.0, 4.0])
    snapshots = []

    def validate(model):
        snapshots.append([p.clone() for p in model.parameters()])
        return {"loss": next(values)}

    train = TrainConfig(epochs=4, batch_size=50)
    plan = supervised_plan(loss_terms=terms, source=TensorSource(ROWS, 50, seed=0), validate=validate, train=train)
    model = net()
    result = fit(model, plan, seed=0, train=train)
    assert (result.best_epoch, result.best_value) == (1, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), snapshots[1], strict=True))


def test_one_bad_batch_is_skipped_and_counted():
    rows = {"x": torch.ones(64, 1), "y": torch.zeros(64, 1)}
    rows["y"][7] = float("nan")
    clean = {name: tensor[:7] for name, tensor in rows.items()}
    train, events = TrainConfig(epochs=2, batch_size=8, schedule=ScheduleConfig(name="constant")), []
    plan = supervised_plan(
        loss_terms=terms, source=TensorSource(rows, 8, seed=0), validate=mean_loss(terms, clean), train=train
    )
    model = net()
    fit(model, plan, seed=0, train=train, callbacks=[events.append])
    ends = [event.metrics["train"] for event in events if event.moment == "epoch_end"]
    assert [end["bad_steps"] for end in ends] == [1.0, 1.0]
    assert all(torch.isfinite(p).all() for p in model.parameters()) and all(end["loss"] < 10 for end in ends)


def test_a_wholly_bad_training_stops_in_words():
    rows = {"x": torch.ones(8, 1), "y": torch.full((8, 1), float("nan"))}
    train, events = TrainConfig(epochs=2, batch_size=8), []
    plan = supervised_plan(
        loss_terms=terms, source=TensorSource(rows, 8, seed=0), validate=lambda m: {"loss": 0.0}, train=train
    )
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        fit(net(), plan, seed=0, train=train, callbacks=[events.append])
    assert events[-1].moment == "exception" and events[-1].details["type"] == "TrainingDiverged"


def test_the_session_random_numbers_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train = TrainConfig(epochs=1, batch_size=50)
    fit(net(), phased(train), seed=9, train=train)
    assert torch.equal(torch.rand(3), expected)


def test_bfloat16_trains():
    train = TrainConfig(epochs=5, batch_size=25, amp="bfloat16", optimizer={"learning_rate": 1e-2})
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    plan = supervised_plan(
        loss_terms=terms, source=TensorSource(ROWS, 25, seed=0), validate=mean_loss(terms, ROWS), train=train
    )
    before = mean_loss(terms, ROWS)(model)["loss"]
    assert fit(model, plan, seed=0, train=train).best_value < before


def test_compile_without_a_compiler_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("PATH", "")
    train = TrainConfig(epochs=1, compile=True)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        fit(net(), phased(train), seed=0, train=train)


def judged(values, train):
    """A plan whose validation says the next of `values`."""
    stream = iter(values)
    return supervised_plan(
        loss_terms=terms,
        source=TensorSource(ROWS, 50, seed=0),
        validate=lambda model: {"loss": next(stream)},
        train=train,
    )


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_transient_bad_validation_is_survived_and_recorded(schedule, bad):
    train, events = TrainConfig(epochs=6, batch_size=50, schedule={"name": schedule, "patience": 1}), []
    result = fit(net(), judged([3.0, bad, 2.0, bad, bad, 1.0], train), seed=0, train=train, callbacks=[events.append])
    assert (result.status, result.best_epoch, result.best_value) == ("done", 5, 1.0)
    losses = [event.metrics["validation"]["loss"] for event in events if event.moment == "epoch_end"]
    assert len(losses) == 6 and str(losses[1]) == str(bad)


def test_a_bad_validation_is_no_improvement():
    train = TrainConfig(epochs=20, batch_size=50, early_stopping=2)
    result = fit(net(), judged([1.0, float("-inf"), float("nan"), 0.5], train), seed=0, train=train)
    assert (result.epochs, result.best_epoch) == (3, 0)


@pytest.mark.parametrize("values,epochs", [([1.0, "nan", "inf", "nan", 1.0], 9), (["nan"], 1), (["nan", "nan"], 2)])
def test_a_permanent_bad_validation_stops_in_words(values, epochs):
    train, events = TrainConfig(epochs=epochs, batch_size=50), []
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        fit(net(), judged(map(float, values), train), seed=0, train=train, callbacks=[events.append])
    assert sum(event.moment == "epoch_end" for event in events) == min(epochs, 4), "the bad epochs are facts too"


def test_bad_validations_are_counted_across_a_pause(tmp_path):
    train = TrainConfig(epochs=9, batch_size=50)
    values = iter([1.0] + 8 * [float("nan")])
    plan = supervised_plan(
        loss_terms=terms,
        source=TensorSource(ROWS, 50, seed=0),
        train=train,
        validate=lambda model: {"loss": next(values)},
    )
    ends = []
    with pytest.raises(TrainingDiverged, match="3 validations"):
        for _ in range(40):
            fit(net(), plan, seed=0, train=train, checkpoints=tmp_path, budget_seconds=0.0, callbacks=[ends.append])
    assert sum(event.moment == "epoch_end" for event in ends) == 4


def test_checkpoints_are_kept_on_demand_and_after_a_kill(tmp_path):
    train = TrainConfig(epochs=7, batch_size=50, keep_every=3, checkpoint_every=2)
    fit(net(), judged([7.0, 6, 5, 4, 3, 2, 1], train), seed=0, train=train, checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "epoch_3.pt", "epoch_6.pt", "last.pt"]
    kept = [load_checkpoint(tmp_path / f"epoch_{n}.pt") for n in (3, 6)]
    assert [state["progress"]["epoch"] for state in kept] == [3, 6]
    (tmp_path / "epoch_3.pt").replace(tmp_path / "last.pt")  # as if killed between writing and keeping
    (tmp_path / "epoch_6.pt").unlink()
    fit(net(), judged([4.0, 3, 2, 1], train), seed=0, train=train, checkpoints=tmp_path)
    assert (tmp_path / "epoch_3.pt").exists() and (tmp_path / "epoch_6.pt").exists()
