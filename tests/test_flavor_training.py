"""How a flavor network is trained: weights, scales, penalties, gradients, equal files, validation in batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thesis_surrogates.core.config import check, config_hash
from thesis_surrogates.core.data import Data
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.plan import describe
from thesis_surrogates.core.training import fit
from thesis_surrogates.flavor import training
from thesis_surrogates.flavor.data import FlavorData, load_data, make_data
from thesis_surrogates.flavor.losses import DATA_TASKS, STREAMS, FlavorTrain, make_loss_terms
from thesis_surrogates.flavor.models import YMatrixConfig, build
from thesis_surrogates.flavor.networks.tasks.penalties import unphysical_losses
from thesis_surrogates.flavor.networks.tasks.scales import costs_of_box3d
from thesis_surrogates.flavor.streams import FINAL, INITIAL, RATE, STABLE, write_asymptotic, write_stable
from thesis_surrogates.flavor.training import make_update, plan, stream, validate_in_batches
from thesis_surrogates.running.registry import resolve

CONFIG = YMatrixConfig(width=16, gate="analytic", exchange="layers", lepton_number="off")
OPTIONS = {
    "penalty": "hinge",
    "loss_scales": "box3d",
    "learned_weights": True,
    "gradients": "projected",
    "sampling": "files",
    "loss_multiplier_unphysical_flux": 3.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config, path = FlavorData(cells=400, quadrature_order=17), tmp_path_factory.mktemp("cells") / "cells.h5"
    make_data(config, path)
    return load_data(config, path)


def streams_of(data, split):
    return {name: stream(data.splits[split], name == "asymptotic") for name in STREAMS}


def losses_without_gradient(model, rows, train):
    with torch.no_grad():
        return {
            name: float(value)
            for name, value in make_loss_terms(train.multipliers(), train.penalty)(model, rows).items()
        }


def test_an_option_at_its_default_is_no_part_of_the_identity():
    plain = {"system": "flavor", "model": {"name": "ymatrix"}}
    defaults = {name: FlavorTrain.model_fields[name].default for name in OPTIONS}
    assert not OPTIONS.keys() & FlavorTrain().model_dump().keys()
    known = config_hash(resolve(plain))
    assert config_hash(resolve({**plain, "train": defaults})) == known
    for name, value in OPTIONS.items():
        assert config_hash(resolve({**plain, "train": {name: value}})) != known, name


@pytest.mark.parametrize("penalty", ["squared", "hinge"])
@pytest.mark.parametrize("fewest", [3, 40])
def test_validation_in_batches_is_that_of_all_rows(data, monkeypatch, penalty, fewest):
    train = FlavorTrain(penalty=penalty, loss_multiplier_unphysical_flux=2.0)
    model, rows = build(CONFIG.model_copy(update={"gate": "none"})), streams_of(data, "train")
    with torch.no_grad():
        for parameter in model.backbone.matrix_heads.parameters():
            parameter.mul_(10)
    rows["stable"] = {name: column[:fewest] for name, column in rows["stable"].items()}
    rows["stable"]["has_final"] = torch.arange(fewest) % 2.0
    rows["asymptotic"]["f4_final"] = rows["asymptotic"]["f4_final"].clone()
    rows["asymptotic"]["f4_final"][0, :3] = 0  # without a direction
    whole = losses_without_gradient(model, rows, train)
    monkeypatch.setattr(training, "PIECE", 16)
    with torch.no_grad():
        pieces = validate_in_batches(rows, train.multipliers(), penalty)(model)
    assert list(pieces) == list(whole) and whole["unphysical"] > 0
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-5, abs=1e-12), name


def test_weights_are_learned_beside_the_model_within_bounds_and_are_no_part_of_what_is_monitored(data):
    model, train = (
        build(CONFIG),
        FlavorTrain(epochs=2, batch_size=64, learned_weights=True, loss_multiplier_direction=0),
    )
    train = train.model_copy(update={"optimizer": train.optimizer.model_copy(update={"learning_rate": 0.05})})
    names = list(model.state_dict())
    made, epochs = plan(model, data, CONFIG, train, seed=0), []
    fit(model, made, seed=0, train=train, callbacks=[epochs.append])
    assert list(model.state_dict()) == names
    learned, (group,) = made.phases[0].updates[0].companion, made.phases[0].updates[0].groups
    assert learned.learned == [task for task in DATA_TASKS if task != "direction"] and group.weight_decay == 0
    last = [event.metrics for event in epochs if event.moment == "epoch_end"][-1]
    weights = {name: value for name, value in last["train"].items() if name.startswith("weight_")}
    assert weights.keys() == {f"weight_{task}" for task in learned.learned}
    assert all(value != 1 for value in weights.values())
    fixed = train.multipliers()
    assert last["validation"]["loss"] == pytest.approx(sum(fixed[t] * last["validation"][t] for t in fixed), rel=1e-5)
    with torch.no_grad():
        learned.raw.fill_(1e6)
        assert max(abs(math.log(value)) for value in learned.now().values()) <= math.log(1000) * 1.001
        learned.raw.fill_(torch.nan)
    assert made.validate(model)["loss"] > 0, "a wrong weight cannot spoil what is monitored"


def test_a_training_with_all_options_goes_on_exactly(data, tmp_path):
    train = FlavorTrain(epochs=2, batch_size=128, **OPTIONS)
    results = []
    for pieces in (False, True):
        status = ""
        while status != "done":
            model = build(CONFIG)
            options = {"checkpoints": tmp_path, "budget_seconds": 0.0} if pieces else {}
            status = fit(model, plan(model, data, CONFIG, train, seed=0), seed=0, train=train, **options).status
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_projection_leaves_heads_alone_and_helps_all_tasks(data):
    model, rows = build(CONFIG), streams_of(data, "train")
    plan(model, data, CONFIG, FlavorTrain(), seed=0)
    weights = FlavorTrain(loss_multiplier_ndens=1000, loss_multiplier_fluxmag=1000).multipliers()
    update = make_update(model, CONFIG, FlavorTrain(gradients="projected"), weights)
    parameters = update.list_moved(model)
    plain = torch.autograd.grad(update.loss_terms(model, rows)["loss"], parameters)
    found = update.gradients(update.loss_terms(model, rows), parameters)
    trunk = {id(parameter) for parameter in model.backbone.trunk.parameters()}
    for parameter, one, other in zip(parameters, plain, found, strict=True):
        if id(parameter) not in trunk:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    moved = [
        not torch.allclose(one, other, rtol=1e-3)
        for parameter, one, other in zip(parameters, plain, found, strict=True)
        if id(parameter) in trunk
    ]
    assert 0 < len(trunk) < len(parameters) and any(moved), "tasks that agree test nothing"


def test_learned_weights_and_projection_in_half_precision_are_refused():
    with pytest.raises(ConfigError, match="amp: off or bfloat16"):
        check(FlavorTrain, {"learned_weights": True, "gradients": "projected", "amp": "float16"})


def test_box3d_on_its_own_rows_costs_one(data):
    weights = plan(build(CONFIG), data, CONFIG, FlavorTrain(loss_scales="box3d"), seed=0).about["loss_weights"]
    box = costs_of_box3d(streams_of(data, "train")["asymptotic"])
    for task in ("ndens", "fluxmag", "direction"):
        assert weights[task] * box[task] == pytest.approx(1)
    assert 0 < weights["growthrate"] < 1e4, "its rate is the label: the scale has a floor"
    assert weights["stable"] == 1 and weights["unphysical"] == 10
    assert not plan(build(CONFIG), data, CONFIG, FlavorTrain(), seed=0).about


@pytest.mark.parametrize("penalty", ["squared", "hinge"])
def test_densities_and_fluxes_are_punished_apart(penalty):
    cells = torch.zeros(6, 4, 2, 3)
    cells[:, 3] = 1.0
    cells[1, 3, 0, 0] = -0.5
    cells[2, 0, 1, 2] = 2.0
    total = torch.ones(6)
    rows = [unphysical_losses(cells[k : k + 1], total[:1], penalty) for k in range(3)]
    density, flux = ([float(row[f"unphysical_{name}"]) for row in rows] for name in ("density", "flux"))
    assert density[0] == flux[0] == 0 and density[1] > 0 == density[2] and flux[2] > 0
    assert float(rows[1]["unphysical_max"]) == 0.5 and float(rows[2]["unphysical_max"]) == 1.0
    shrunk = cells[1:2].clone()
    shrunk[0, 3, 0, 0] = -5e-4
    ratio = density[1] / float(unphysical_losses(shrunk, total[:1], penalty)["unphysical_density"])
    assert ratio == pytest.approx({"squared": 1e6, "hinge": 1e3}[penalty], rel=1e-3)


def written(folder, name, first, count, seed):
    rng = np.random.default_rng(seed)
    cells = np.concatenate([0.1 * rng.normal(size=(count, 3, 2, 3)), 1 + rng.uniform(size=(count, 1, 2, 3))], axis=1)
    if first:
        write_asymptotic(folder / name, {INITIAL: cells, FINAL: cells, RATE: np.ones(count)})
    else:
        write_stable(folder / name, {INITIAL: cells, STABLE: np.ones(count)})
    return str(folder / name)


def test_files_are_drawn_equally_often_in_each_stream(tmp_path):
    sizes = {"a.h5": 900, "b.h5": 60, "c.h5": 200}
    asymptotic = [written(tmp_path, name, True, rows, k) for k, (name, rows) in enumerate(sizes.items())]
    stable = [written(tmp_path, "s.h5", False, 600, 9)]
    read = load_data(FlavorData(path=asymptotic, stable_path=stable, split="random"), tmp_path / "unused")
    model = build(CONFIG)
    shares = {}
    for sampling in ("rows", "files"):
        train = FlavorTrain(batch_size=4000, sampling=sampling)
        batch = next(plan(model, read, CONFIG, train, seed=0).phases[0].source.batches())
        counts = torch.unique(batch["asymptotic"]["file"], return_counts=True)[1]
        shares[sampling] = (counts / counts.sum()).tolist()
    assert shares["files"] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert shares["rows"] == pytest.approx([rows / 1160 for rows in sizes.values()], abs=0.02)


def test_a_stream_is_its_rows_in_their_order_and_no_copy_where_they_stand_together(data):
    train = data.splits["train"]
    order = torch.randperm(len(train["stable"]), generator=torch.Generator().manual_seed(0))
    mixed = {name: column[order] for name, column in train.items()}
    for rows in (train, mixed):
        for asymptotic in (True, False):
            found, mask = stream(rows, asymptotic), rows["asymptotic"] == float(asymptotic)
            assert all(torch.equal(found[name], rows[name][mask]) for name in rows)
    own = [stream(train, kind)["f4_initial"].untyped_storage().data_ptr() for kind in (True, False)]
    assert own == [train["f4_initial"].untyped_storage().data_ptr()] * 2
    assert len(stream(stream(train, True), False)["stable"]) == 0


def test_one_file_a_stream_is_read_as_ever(data):
    assert "file" not in data.splits["train"]


def test_steps_of_an_epoch_are_the_batches_of_the_longer_stream(data):
    more = {name: torch.cat([rows, rows]) for name, rows in streams_of(data, "train")["stable"].items()}
    train = {name: torch.cat([rows, more[name]]) for name, rows in streams_of(data, "train")["asymptotic"].items()}
    unequal = Data(splits={**data.splits, "train": train}, fingerprint="", meta=data.meta)
    made = plan(build(CONFIG), unequal, CONFIG, FlavorTrain(batch_size=100), seed=0)
    assert made.phases[0].epoch_steps == math.ceil(len(more["stable"]) / 100)


def test_what_an_option_does_is_part_of_the_loop_that_a_checkpoint_belongs_to(data):
    loops = {describe(plan(build(CONFIG), data, CONFIG, FlavorTrain(), seed=0))}
    for options in ({"learned_weights": True}, {"gradients": "projected"}):
        loops.add(describe(plan(build(CONFIG), data, CONFIG, FlavorTrain(**options), seed=0)))
    assert len(loops) == 3
