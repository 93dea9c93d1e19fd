"""Validation in batches is that of the whole, its random numbers are its own, and largest values are kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thesis_surrogates.core.checkpoints import load_checkpoint, save_checkpoint
from thesis_surrogates.core.config import OptimizerConfig, TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.plan import Phase, Plan, Update, mean_loss, rows_of
from thesis_surrogates.core.running_means import RunningMeans, cut_batches
from thesis_surrogates.core.training import fit

RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(97, 3, generator=RANDOM, dtype=torch.float64)
ROWS = {"x": X, "y": X.prod(dim=1, keepdim=True)}
TRAIN = TrainConfig(batch_size=16)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)).double()


def terms(model, batch):
    error = (model(batch["x"]) - batch["y"]).abs()
    return {"loss": error.square().mean(), "size": error.mean(), "size_max": error.max()}


def plan_of(validate, loss_terms=terms, rows=ROWS, epochs=4):
    update = Update(loss_terms=loss_terms, optimizer=OptimizerConfig(learning_rate=1e-2))
    phase = Phase(name="toy", source=TensorSource(rows, 16, seed=0), updates=(update,), epochs=epochs)
    return Plan(phases=(phase,), validate=validate)


def trained(plan, **options):
    model, events = net(), []
    fit(model, plan, seed=3, train=TRAIN, callbacks=[events.append], **options)
    return model, [event.metrics for event in events if event.moment == "epoch_end"]


def weights_of(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def as_floats(found):
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("batch_size", [1, 16, 96, 97, 1000])
def test_batches_give_the_numbers_of_the_whole(batch_size):
    model = net().eval()
    with torch.no_grad():
        whole, batches = as_floats(terms(model, ROWS)), mean_loss(terms, ROWS, batch_size)(model)
    assert batches == pytest.approx(whole, rel=1e-12) and list(batches) == list(whole)


def masked_terms(model, batch):
    """A mean over the positive inputs of both streams, and one over the rows of each."""
    kind = {name: terms(model, batch[name]) for name in ("near", "far")}
    inputs = torch.cat([batch["near"]["x"], batch["far"]["x"]])
    positive = inputs[inputs > 0].mean()
    parts = {"near": kind["near"]["loss"], "far": kind["far"]["loss"], "positive": positive}
    return {"loss": parts["near"] + 0.1 * parts["far"] + 0.01 * positive, **parts, "far_max": kind["far"]["size_max"]}


STREAMS = {"near": ROWS, "far": {"x": X[:31] + 1, "y": ROWS["y"][:31]}}
OWN = {
    "near": lambda batch: rows_of(batch["near"]),
    "far": lambda batch: rows_of(batch["far"]),
    "positive": lambda batch: sum((batch[name]["x"] > 0).sum() for name in batch),
}


def sum_of(means):
    return means["near"] + 0.1 * means["far"] + 0.01 * means["positive"]


@pytest.mark.parametrize("batch_size", [4, 16, 97])
def test_streams_of_different_lengths_give_the_numbers_of_the_whole(batch_size):
    model = net().eval()
    with torch.no_grad():
        whole = as_floats(masked_terms(model, STREAMS))
        batches = mean_loss(masked_terms, STREAMS, batch_size, weights=OWN, total=sum_of)(model)
    assert batches == pytest.approx(whole, rel=1e-12)


def test_every_row_is_in_one_batch():
    batches = list(cut_batches(STREAMS, 10))
    for name, stream in STREAMS.items():
        assert torch.equal(torch.cat([batch[name]["x"] for batch in batches]), stream["x"])
    assert [rows_of(batch["far"]) for batch in batches] == [3, 3, 3, 3, 3, 4, 3, 3, 3, 3]


def test_a_loss_that_writes_into_its_batch_does_not_change_the_rows():
    def careless(model, batch):
        batch["x"].mul_(0.0)
        return terms(model, batch)

    rows = {name: value.clone() for name, value in ROWS.items()}
    mean_loss(careless, rows)(net())
    assert torch.equal(rows["x"], X)


def test_what_has_no_clear_weight_is_refused():
    with pytest.raises(ConfigError, match="near, far, positive have weights of their own; say by `total`"):
        mean_loss(masked_terms, STREAMS, weights=OWN)
    unclear = mean_loss(masked_terms, STREAMS, weights={"near": OWN["near"]}, total=sum_of)
    with pytest.raises(ConfigError, match="rows, and nothing says of which of them far, positive are means"):
        unclear(net())


@pytest.mark.parametrize("rows", [{"x": X, "y": X[:5]}, {"a": {"x": X, "y": X[:5]}}, {"x": X[:0]}])
def test_ragged_and_empty_rows_are_refused(rows):
    with pytest.raises(DataError, match="one common, positive length"):
        mean_loss(terms, rows)


def test_a_stream_without_a_row_in_every_batch_is_refused():
    with pytest.raises(DataError, match="5 rows beside 97 .* give a batch size of at least 20"):
        mean_loss(terms, {"long": {"x": X}, "short": {"x": X[:5]}}, 16)


def test_what_has_no_weight_leaves_no_trace():
    means = RunningMeans()
    for value, weight in ((1.0, 2), (math.nan, 0), (4.0, torch.tensor(1.0)), (math.inf, torch.tensor(False))):
        means.add({"a": torch.tensor(value), "a_max": torch.tensor(value)}, weight)
    assert means.means() == {"a": 2.0, "a_max": 4.0}
    nothing = RunningMeans()
    nothing.add({"a": torch.tensor(1.0), "a_max": torch.tensor(1.0)}, 0)
    assert all(math.isnan(value) for value in nothing.means().values())


def test_a_nan_of_a_batch_is_seen_in_mean_and_maximum():
    rows = {**ROWS, "y": ROWS["y"].clone()}
    rows["y"][50] = math.nan
    found = mean_loss(terms, rows, 16)(net())
    assert all(math.isnan(value) for value in found.values())


def noisy(model):
    """A validation like that of a generator: it draws, from torch's own random numbers."""
    torch.rand(3)
    with torch.no_grad():
        return {"loss": float((model(X + 0.1 * torch.randn_like(X)) - ROWS["y"]).square().mean())}


def test_random_numbers_of_a_validation_are_its_own():
    still, first = trained(plan_of(lambda model: {"loss": 1.0}))
    drawing, second = trained(plan_of(noisy))
    assert [epoch["train"] for epoch in first] == [epoch["train"] for epoch in second]
    # the first epoch is the best where the loss is always 1, so the weights after all epochs are compared
    untold, _ = trained(plan_of(lambda model: {"loss": -float(weights_of(model).abs().sum())}))
    draws, _ = trained(plan_of(lambda model: noisy(model) and {"loss": -float(weights_of(model).abs().sum())}))
    assert torch.equal(weights_of(untold), weights_of(draws))


def test_a_validation_draws_the_same_numbers_in_every_epoch_and_other_ones_for_another_seed():
    drawn = []

    def validate(model):
        drawn.append(torch.rand(4).tolist())
        return {"loss": 1.0}

    for seed in (3, 3, 4):
        fit(net(), plan_of(validate, epochs=2), seed=seed, train=TRAIN)
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3] != drawn[4] and drawn[4] == drawn[5]


def test_noisy_validation_is_repeated_and_resumed_exactly(tmp_path):
    whole, epochs = trained(plan_of(noisy))
    pieces, status = [], ""
    while status != "done":
        model = net()
        options = {"checkpoints": tmp_path, "budget_seconds": 0.0, "callbacks": [pieces.append]}
        status = fit(model, plan_of(noisy), seed=3, train=TRAIN, **options).status
    assert torch.equal(weights_of(whole), weights_of(model))
    assert [event.metrics for event in pieces if event.moment == "epoch_end"] == epochs


def test_the_largest_of_an_epoch_is_logged_without_its_bad_steps():
    seen = []

    def watched(model, batch):
        found = terms(model, batch)
        if bool(found["loss"].isfinite()):
            seen.append(float(found["size_max"].detach()))
        return found

    rows = {**ROWS, "y": ROWS["y"].clone()}
    rows["y"][50] = math.nan
    _, epochs = trained(plan_of(lambda model: {"loss": 1.0}, watched, rows))
    assert [epoch["train"]["size_max"] for epoch in epochs] == [max(seen[k : k + 6]) for k in (0, 6, 12, 18)]
    assert [epoch["train"]["bad_steps"] for epoch in epochs] == [1.0] * 4


def test_a_checkpoint_of_an_earlier_version_goes_on_in_the_middle_of_an_epoch(tmp_path):
    plan = plan_of(lambda model: {"loss": 1.0})
    _, epochs = trained(plan)
    fit(net(), plan, seed=3, train=TRAIN, checkpoints=tmp_path, budget_seconds=0.0)
    state = load_checkpoint(tmp_path / "last.pt")
    assert sorted(state["sums"]) == ["bad", "loss", "size", "size_max", "steps"]
    as_before = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}
    save_checkpoint(tmp_path / "last.pt", {**state, "sums": as_before})
    _, rest = trained(plan, checkpoints=tmp_path)
    assert rest == epochs
