"""The compiled step of tracks: the gradients of autograd, the same training twice and after a pause, and its record."""

from __future__ import annotations

import pytest
import torch

from thesis_surrogates.core.config import as_mapping, config_hash
from thesis_surrogates.core.models import ACTIVATIONS
from thesis_surrogates.core.plan import describe
from thesis_surrogates.core.training import fit
from thesis_surrogates.running.datasets import ensure_dataset, read_dataset
from thesis_surrogates.running.execution import new_model
from thesis_surrogates.running.registry import get_system, resolve
from thesis_surrogates.tracks.networks.fused import BLOCK, find_obstacle, fuse_update

TINY = {"data": {"n_tracks": 400}, "train": {"epochs": 2, "batch_size": 64, "step": "fused"}}


def tiny(model="residual", **train):
    return resolve({"system": "tracks", "model": model, "data": TINY["data"], "train": {**TINY["train"], **train}})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = tiny()
    place = ensure_dataset(get_system("tracks"), config.data, tmp_path_factory.mktemp("data"))
    return read_dataset(get_system("tracks"), config.data, place)


def planned(data, config, kind=torch.float32):
    torch.manual_seed(0)
    model = new_model(config).to(kind)
    return model, get_system("tracks").plan(model, data, config.model, config.train, 0)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["residual", "mlp"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS.keys() - {"prelu", "shifted_softplus"}))
def test_loss_and_gradients_are_those_of_autograd(data, name, activation, kind):
    model = {"name": name, "activation": activation, "hidden": [24, 17, 9]}
    network, plan = planned(data, tiny(model, lambda_data=0.7), kind)
    _, usual = planned(data, tiny(model, lambda_data=0.7, step="autograd"), kind)
    rows = {key: value[: BLOCK + 30].to(kind) for key, value in plan.phases[0].source.tensors.items()}
    own = list(network.parameters())
    terms, gradients = plan.phases[0].updates[0].loss_and_gradients(network, rows, own)
    wanted = usual.phases[0].updates[0].loss_terms(network, rows)
    limit = 1e-5 if kind == torch.float32 else 1e-10
    assert terms.keys() == wanted.keys() and all(value.dtype == kind for value in terms.values())
    for term, value in wanted.items():
        assert torch.allclose(terms[term], value.detach(), rtol=limit), term
    for found, theirs in zip(gradients, torch.autograd.grad(wanted["loss"], own), strict=True):
        assert (found - theirs).abs().max() < limit * theirs.abs().max()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS.keys() - {"prelu", "shifted_softplus"}))
def test_what_is_no_number_stays_none(data, activation):
    network, plan = planned(data, tiny({"name": "residual", "activation": activation}))
    rows = {key: value[:5].clone() for key, value in plan.phases[0].source.tensors.items()}
    rows["inputs"][3, 1] = float("nan")
    terms, gradients = plan.phases[0].updates[0].loss_and_gradients(network, rows, list(network.parameters()))
    assert terms["loss"].isnan() and gradients[-1].isnan().any()


def trained(data, folder, budget=None, **train):
    config = tiny(**train)
    model, plan = planned(data, config)
    result = fit(model, plan, seed=0, train=config.train, checkpoints=folder, budget_seconds=budget)
    return result, {name: value.clone() for name, value in model.state_dict().items()}


def test_a_training_repeats_itself_and_goes_on_bit_by_bit(data, tmp_path):
    _, whole = trained(data, tmp_path / "one")
    _, again = trained(data, tmp_path / "two")
    status = "paused"
    for _ in range(100):
        result, weights = trained(data, tmp_path / "three", budget=0.0)
        status = result.status
        if status == "done":
            break
    assert status == "done"
    for name, value in whole.items():
        assert torch.equal(value, again[name]) and torch.equal(value, weights[name]), name
    _, usual = trained(data, tmp_path / "four", step="autograd")
    assert all(torch.allclose(whole[name], value, rtol=1e-3, atol=1e-4) for name, value in usual.items())


def test_the_record_says_which_step_it_was_and_why(data):
    assert "on track_loss, compiled, and its gradient" in describe(planned(data, tiny())[1])
    loop = describe(planned(data, tiny({"name": "quadratic", "hidden": [4]}))[1])
    assert "track_loss (not compiled: QuadraticNetwork is neither a ResidualNetwork nor a PlainNetwork)" in loop


def test_what_is_not_covered_is_trained_as_usual(data):
    config = tiny()
    network, plan = planned(data, config)
    assert find_obstacle(network) is None
    next(network.parameters()).requires_grad_(False)
    update = fuse_update(network, plan.phases[0].source.batches, config.train)
    assert "some parameters are frozen" in update.loss_terms.description
    assert find_obstacle(new_model(config).to(torch.bfloat16)) == "the network is torch.bfloat16 on cpu"


def test_the_key_is_no_part_of_a_run_that_does_not_use_it():
    usual = tiny(step="autograd")
    assert "step" not in as_mapping(usual)["train"]
    assert config_hash(usual) != config_hash(tiny())
