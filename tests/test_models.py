"""What a model is for the rest of the package: one class that builds itself, names its loss, and keeps its identity."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch

from thesis_surrogates import run
from thesis_surrogates.core.config import config_hash, hash_canonical, useless_keys
from thesis_surrogates.events.models import MODELS as AUTOENCODERS
from thesis_surrogates.events.models import build_autoencoder
from thesis_surrogates.flavor.models import MODELS as FLAVOR_NETWORKS
from thesis_surrogates.flavor.models import build
from thesis_surrogates.running.execution import new_model
from thesis_surrogates.running.registry import SYSTEMS, get_system, list_suites, load_suite, resolve
from thesis_surrogates.tracks.networks.plain import TrackNetwork
from thesis_surrogates.tracks.networks.residual import CorrectionNetwork, SolvedNetwork

# Of every run of every suite, before a configuration built its model by itself: its hash, and a digest of the names,
# shapes and order in its state_dict. A change here makes checkpoints unreadable or gives a published run another name.
KNOWN = json.loads((Path(__file__).parent / "model_identities.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("suite", KNOWN)
def test_hashes_and_checkpoints_are_those_of_published_runs(suite):
    for config in load_suite(suite):
        if config.name in KNOWN[suite]:
            state = new_model(config).state_dict()
            shapes = {name: list(tensor.shape) for name, tensor in state.items()} | {"order": list(state)}
            assert [config_hash(config), hash_canonical(shapes)] == KNOWN[suite][config.name], config.name


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_model_builds_itself_and_names_its_loss(system):
    record = get_system(system)
    for name, kind in record.models.items():
        model = kind()
        network = model.build(record.data_config())
        assert model.name == name and callable(model.loss) and isinstance(network, torch.nn.Module)
        known = {
            f"{part}.{key}"
            for part, owner in (("model", kind), ("train", record.train_config))
            for key in keys_of(owner)
        }
        assert kind.ignores <= known, kind.ignores - known


def keys_of(owner, prefix=""):
    """Dotted names of the fields of a configuration class, sections included."""
    for key, field in owner.model_fields.items():
        yield prefix + key
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            yield from keys_of(field.annotation, f"{prefix}{key}.")


def test_the_doors_of_flavor_and_events_give_the_same_networks():
    for kind in FLAVOR_NETWORKS.values():
        before = torch.random.get_rng_state()
        one, other = build(kind(), seed=3).state_dict(), build(kind(), seed=3).state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert torch.equal(before, torch.random.get_rng_state())
    for kind in AUTOENCODERS.values():
        assert list(build_autoencoder(kind()).state_dict()) == list(kind().build(None).state_dict())


def test_a_track_network_that_lacks_something_cannot_be_made():
    for base in (TrackNetwork, CorrectionNetwork, SolvedNetwork):
        with pytest.raises(TypeError, match="abstract"):
            base(None)


def test_the_package_asks_its_own_classes_for_nothing_by_name():
    """`hasattr` is for objects of others: what one of our classes must offer is written as a base."""
    package = Path(__file__).parents[1] / "thesis_surrogates"
    found = {
        call
        for path in package.rglob("*.py")
        for call in re.findall(r"hasattr\(.*?\)", path.read_text(encoding="utf-8"))
    }
    # arrays of numpy and tensors of torch; a node of torch's graph
    assert found == {'hasattr(value, "tolist")', 'hasattr(node, "variable")'}


VAIN = {
    "system": "tracks",
    "name": "vain",
    "model": {"name": "polynomial", "degree": 2, "hidden": [8], "size": "small"},
    "data": {"n_tracks": 400},
    "train": {"lambda_pde": 0.5, "n_collocation": 10, "threads": 2},
}


def test_useless_keys_are_reported_once_each_before_the_run_starts(tmp_path, monkeypatch):
    def stop(*_):
        raise InterruptedError("here the run would start")

    monkeypatch.setattr("thesis_surrogates.running.execution.ensure_dataset", stop)
    config = resolve(VAIN)
    assert useless_keys(config) == {"model.hidden": [8], "train.lambda_pde": 0.5}  # what is at its default is not
    assert useless_keys(resolve(config.model_dump(mode="json"))) == useless_keys(config)
    with pytest.warns(UserWarning, match="no use") as caught, pytest.raises(InterruptedError):
        run(VAIN, out=tmp_path)
    start = "run 'vain': the model polynomial makes no use of "
    assert [str(item.message).split(" = ")[0] for item in caught] == [
        start + "model.hidden",
        start + "train.lambda_pde",
    ]
    with warnings.catch_warnings(), pytest.raises(InterruptedError):
        warnings.simplefilter("error")  # whoever has checked a run before has seen it
        run(config, out=tmp_path)


def test_only_settings_that_several_models_share_are_set_in_vain_by_our_suites():
    """Each useless key of a shipped suite comes from its `defaults`, where another model of the suite uses it."""
    for name in list_suites():
        runs = load_suite(name)
        for config in runs:
            for key in useless_keys(config):
                assert any(key not in other.model.ignores for other in runs), (name, config.name, key)
