"""Latent ODEs as models of the record: every choice trains and is scored, a run is kept, loaded and judged."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from thesis_surrogates import run
from thesis_surrogates.core.config import as_mapping, check_run
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.training import fit
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.networks.latent.model import LatentODEConfig
from thesis_surrogates.orbits.system import SYSTEM
from thesis_surrogates.orbits.training import OrbitsTrain, plan
from thesis_surrogates.running.execution import load_surrogate
from thesis_surrogates.running.registry import load_suite

ENCODERS = ("y0_mlp", {"name": "prefix_gru", "window": 4}, {"name": "backward_gru", "window": 5})
DYNAMICS = ("nonlinear", "linear", "linear_plus_mlp")
WINDOWS = {"segment_length_strategy": [6], "steps_strategy": [4], "validate_every": 2}


@pytest.fixture(scope="module")
def orbits(tmp_path_factory: pytest.TempPathFactory) -> tuple[OrbitsData, object]:
    config = OrbitsData(train_set="complex_TBP_planar_4_train", test_set="complex_TBP_planar_2_test", points=30)
    path = tmp_path_factory.mktemp("latent") / "orbits.h5"
    make_data(config, path)
    return config, load_data(config, path)


@pytest.mark.parametrize("encoder, dynamics", [*product(ENCODERS, DYNAMICS)])
def test_every_encoder_and_equation_trains_and_is_scored(orbits, encoder, dynamics) -> None:
    config, data = orbits
    kind = LatentODEConfig(encoder=encoder, dynamics=dynamics, latent=4, width=8, depth=1)
    train, model = OrbitsTrain(**WINDOWS), kind.build(config)
    fit(model, plan(model, data, kind, train, 0), seed=0, train=train)
    with torch.no_grad():
        found = SYSTEM.score(SYSTEM.surrogate(model, data).predict(data.splits["test"]), data.splits["test"]).metrics
    assert found["acceleration_error_percent"] > 0 and found["finished_orbits"] == 2
    assert SYSTEM.deploy(model).module is not None


def test_the_price_of_the_stochastic_path_grows_with_the_steps(orbits) -> None:
    config, data = orbits
    kind = LatentODEConfig(path={"name": "stochastic", "size": 3, "kl_warmup_steps": 8}, latent=4, width=8, depth=1)
    train, model = OrbitsTrain(**WINDOWS), kind.build(config)
    fit(model, plan(model, data, kind, train, 0), seed=0, train=train)
    assert int(model.steps_taken) > 0 and model.kl_share() == int(model.steps_taken) / 8  # those of the best weights
    again = kind.build(config)
    again.load_state_dict(model.state_dict())
    assert again.kl_share() == model.kl_share()


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"model": {"name": "latent_ode", "encoder": "gru"}}, "prefix_gru"),
        ({"model": {"name": "latent_ode", "encoder": {"name": "y0_mlp", "window": 4}}}, "window"),
        ({"model": {"name": "latent_ode", "activation": "relu"}}, "activation"),
        ({"model": {"name": "latent_ode", "features": "cartesian"}}, "cartesian_only"),
    ],
)
def test_wrong_parts_are_named(wrong, word) -> None:
    with pytest.raises(ConfigError, match=word):
        check_run({"system": "orbits", **wrong}, SYSTEM.models, SYSTEM.data_config, SYSTEM.train_config)


def test_what_it_cannot_do_is_refused(orbits) -> None:
    config, data = orbits
    kind, train = LatentODEConfig(), OrbitsTrain(loss="jacobian_norm")
    model = kind.build(config)
    with pytest.raises(ConfigError, match="asks for a field"):
        fit(model, plan(model, data, kind, train, 0), seed=0, train=train)


def test_a_run_is_kept_and_loaded(tmp_path: Path, data_dir: Path) -> None:
    config = next(one for one in load_suite("orbits/smoke") if one.model.name == "latent_ode")
    values = {**as_mapping(config), "train": {**WINDOWS}}
    done = run(values, out=tmp_path, data_dir=data_dir)
    assert done.status == "done"
    answer = load_surrogate(done.path).predict([[7000.0, 0, 0, 0, 7.5, 0], [20000.0, 0, 0, 0, 4.0, 0]])
    assert np.asarray(answer).shape == (2, 3)


def test_windows_that_are_too_short_for_an_encoder_are_refused_by_the_plan(orbits) -> None:
    config, data = orbits
    kind = LatentODEConfig(encoder={"name": "prefix_gru", "window": 7}, latent=4, width=8, depth=1)
    with pytest.raises(ConfigError, match="reads 7 samples, windows of part 1 have 6.*segment_length_strategy"):
        plan(kind.build(config), data, kind, OrbitsTrain(**WINDOWS), 0)
