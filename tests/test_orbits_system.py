"""Guards of the orbits system: bad input, planar exactness, resume, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from thesis_surrogates.core.comparison import evaluate_all
from thesis_surrogates.core.config import check, check_run
from thesis_surrogates.core.data import Data
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.export.onnx import export_onnx
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.core.hdf5 import read_hdf5, write_hdf5
from thesis_surrogates.core.training import fit
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.dictionaries import pad_orbits
from thesis_surrogates.orbits.models import NeuralField, NeuralODEConfig
from thesis_surrogates.orbits.segments import SegmentError, cut_segments
from thesis_surrogates.orbits.system import SYSTEM
from thesis_surrogates.orbits.training import OrbitsTrain, fit_scalers

SMALL = {"train_set": "complex_TBP_planar_6_train", "test_set": "complex_TBP_planar_3_test", "points": 90}


@pytest.fixture(scope="module")
def planar(tmp_path_factory: pytest.TempPathFactory) -> tuple[OrbitsData, Path]:
    config, path = OrbitsData(**SMALL), tmp_path_factory.mktemp("orbits") / "orbits.h5"
    make_data(config, path)
    return config, path


def small_field(data: Data, planar: bool = True, seed: int = 0, **model: object) -> NeuralField:
    torch.manual_seed(seed)
    field = NeuralField(NeuralODEConfig(width=8, depth=1, **model), dimensions=2 if planar else 3)  # type: ignore[arg-type]
    fit_scalers(field, data)
    return field


@pytest.mark.parametrize("plane", ["planar", "nonplanar"])
def test_trains_and_competes(plane: str, tmp_path: Path) -> None:
    config = OrbitsData(train_set=f"complex_TBP_{plane}_6_train", test_set=f"complex_TBP_{plane}_3_test", points=90)
    make_data(config, tmp_path / "o.h5")
    data = load_data(config, tmp_path / "o.h5")
    field = small_field(data, plane == "planar")
    train = OrbitsTrain(steps_strategy=[40, 20], segment_length_strategy=[4, 9], validate_every=20)
    plan = SYSTEM.plan(field, data, NeuralODEConfig(), train, seed=0)
    before = plan.validate(field)["loss"]
    assert fit(field, plan, seed=0, train=train).best_value < before
    rows = evaluate_all(
        (SYSTEM.surrogate(field, data), *SYSTEM.baselines(data)), data.splits["test"], SYSTEM.score, items=3
    )
    table = {row["contender"]: row for row in rows}
    assert all(set(SYSTEM.terms.columns) <= set(row) for row in rows)
    assert table["no force"]["acceleration_error_percent"] == pytest.approx(100)
    assert table["Kepler"]["closure_percent"] < 1e-9 and table["DOP853"]["closure_percent"] < 0.1
    rolled = SYSTEM.surrogate(field, data).predict(data.splits["test"])["rollout"]
    assert (float(rolled[..., [2, 5]].detach().abs().max()) == 0.0) == (plane == "planar")


def test_planar_stays_planar_even_with_a_tilted_state() -> None:
    field = NeuralField(NeuralODEConfig(width=8), dimensions=2)
    assert torch.all(field(torch.randn(5, 6))[:, [2, 5]] == 0)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"train_set": "complex_TBP_planar_10_test"}, "train_set must end in _train"),
        ({"test_set": "complex_TBP_nonplanar_10_test"}, "do not share a plane"),
        ({"train_set": "TBP_complex_planar_10"}, "complex_TBP_planar_100_train"),
        ({"trainset": "x"}, "train_set"),
        ({"points": 1}, "points"),
    ],
)
def test_bad_data_configurations(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check(OrbitsData, wrong, "data")


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"model": {"name": "neural_od"}}, "neural_ode"),
        ({"model": {"name": "neural_ode", "head": "mlp_4D_sigend"}}, "mlp_4D_signed"),
        ({"model": {"name": "neural_ode", "features": "cartesian"}}, "cartesian_only"),
        ({"train": {"steps_strategy": [10, 10], "lr_strategy": [1e-3] * 3}}, "four lists"),
        ({"train": {"optimizer": {"learning_rate": 1.0}}}, "lr_strategy"),
        ({"train": {"segment_length_strategy": [10], "length_strategy": [[0, 0.1]]}}, "at least 2"),
        ({"train": {"lr_strategy": []}}, "lr_strategy"),
        ({"train": {"steps_strategy": ["many"]}}, "steps_strategy"),
        ({"train": {"loss": "percent"}}, "percent_error"),
    ],
)
def test_bad_run_configurations(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check_run(
            {"system": "orbits", "model": {"name": "neural_ode"}, **wrong},
            SYSTEM.models,
            SYSTEM.data_config,
            SYSTEM.train_config,
        )


def test_complete_configuration_is_stable() -> None:
    config = check_run(
        {"system": "orbits", "model": "neural_ode", "train": {"steps_strategy": [300, 50]}},
        SYSTEM.models,
        SYSTEM.data_config,
        SYSTEM.train_config,
    )
    again = check_run(config.model_dump(mode="json"), SYSTEM.models, SYSTEM.data_config, SYSTEM.train_config)
    assert again == config and config.train.epochs == 4


@pytest.mark.parametrize(
    "spoil, word",
    [
        (lambda a: a["train_state"].__setitem__((0, 3, 1), np.nan), "NaN"),
        (lambda a: a["train_time"].__setitem__((1, 5), 0.0), "increasing"),
        (lambda a: a["test_state"].__setitem__((0, 0, 2), 5.0), "plane"),
        (lambda a: a["train_state"].__imul__(1 / 6378.137), "kilometres"),
        (lambda a: a["train_state"].__setitem__((..., slice(3, 6)), 30.0 * np.eye(3)[0]), "not bound"),
        (lambda a: a.pop("test_time"), "test_time"),
        (lambda a: a.__setitem__("train_time", a["train_time"][:, :-1]), "state"),
        (lambda a: a["train_mask"].__setitem__((2, slice(1, None)), False), "fewer than two"),
    ],
)
def test_bad_files(planar: tuple[OrbitsData, Path], tmp_path: Path, spoil: object, word: str) -> None:
    arrays, attributes = read_hdf5(planar[1])
    spoil(arrays)  # type: ignore[operator]
    write_hdf5(tmp_path / "bad.h5", arrays, attributes)
    with pytest.raises(DataError, match=word) as caught:
        load_data(planar[0], tmp_path / "bad.h5")
    assert "bad.h5" in str(caught.value)


def test_ragged_user_file(planar: tuple[OrbitsData, Path], tmp_path: Path) -> None:
    arrays, _ = read_hdf5(planar[1])
    lengths = [90, 60, 75, 90, 33, 90]
    train = pad_orbits(
        [arrays["train_time"][k, :n] for k, n in enumerate(lengths)],
        [arrays["train_state"][k, :n] for k, n in enumerate(lengths)],
    )
    test = pad_orbits(
        [arrays["test_time"][k, :n] for k, n in enumerate((90, 40, 90))],
        [arrays["test_state"][k, :n] for k, n in enumerate((90, 40, 90))],
    )
    both = {f"train_{k}": v for k, v in train.items()} | {f"test_{k}": v for k, v in test.items()}
    write_hdf5(tmp_path / "mine.h5", both, {"mu_km3_s2": 398600.4418})
    config = OrbitsData(path=str(tmp_path / "mine.h5"), planar=True, validation_fraction=0.2)
    data = load_data(config, tmp_path / "mine.h5")
    whole = [len(cut_segments(data.splits[name], 10)["time"]) for name in ("train", "validation")]
    assert sum(whole) == sum(n // 10 for n in lengths)
    with pytest.raises(SegmentError, match="the longest run of real samples is 90"):
        cut_segments(data.splits["train"], 91)
    field = small_field(data)
    result = fit(
        field,
        SYSTEM.plan(field, data, NeuralODEConfig(), train_config := OrbitsTrain(steps_strategy=[10]), 0),
        seed=0,
        train=train_config,
    )
    rows = evaluate_all(
        (SYSTEM.surrogate(field, data), *SYSTEM.baselines(data)), data.splits["test"], SYSTEM.score, items=3
    )
    assert result.status == "done" and all(np.isfinite(row["acceleration_error_percent"]) for row in rows)
    assert {row["contender"]: row for row in rows}["exact field"]["closure_percent"] < 0.1


def test_same_seed_same_losses_and_resume(planar: tuple[OrbitsData, Path], tmp_path: Path) -> None:
    data = load_data(*planar)
    train = OrbitsTrain(steps_strategy=[20, 20], segment_length_strategy=[4, 9], validate_every=10)

    def weights(folder: Path | None, budget: float | None = None) -> torch.Tensor:
        field = small_field(data)
        plan = SYSTEM.plan(field, data, NeuralODEConfig(), train, seed=1)
        result = fit(field, plan, seed=1, train=train, checkpoints=folder, budget_seconds=budget)
        while result.status == "paused":
            field = small_field(data, seed=5)
            result = fit(
                field,
                SYSTEM.plan(field, data, NeuralODEConfig(), train, seed=1),
                seed=1,
                train=train,
                checkpoints=folder,
                budget_seconds=budget,
            )
        return torch.cat([parameter.detach().ravel() for parameter in field.parameters()])

    straight = weights(None)
    assert torch.equal(straight, weights(None))
    assert torch.equal(straight, weights(tmp_path / "run", budget=0.05))


def test_steps_need_not_be_a_multiple_of_the_validations(planar: tuple[OrbitsData, Path]) -> None:
    data = load_data(*planar)
    train = OrbitsTrain(steps_strategy=[25, 7], segment_length_strategy=[4, 9], validate_every=10)
    field, events = small_field(data), []
    fit(field, SYSTEM.plan(field, data, NeuralODEConfig(), train, 0), seed=0, train=train, callbacks=[events.append])
    assert train.epochs == 4
    assert [event.step for event in events if event.moment == "epoch_end"] == [10, 20, 25, 32]


def test_one_orbit_warns_and_validates_on_itself(tmp_path: Path) -> None:
    config = OrbitsData(train_set="single_TBP_planar_1_train", test_set="complex_TBP_planar_2_test", points=36)
    make_data(config, tmp_path / "o.h5")
    with pytest.warns(UserWarning, match="themselves"):
        data = load_data(config, tmp_path / "o.h5")
    assert torch.equal(data.splits["train"]["state"], data.splits["validation"]["state"])


def test_exports(planar: tuple[OrbitsData, Path], tmp_path: Path) -> None:
    field = small_field(load_data(*planar))
    export_onnx(SYSTEM.deploy(field), tmp_path / "field.onnx")
    export_torchscript(SYSTEM.deploy(field), tmp_path / "field.pt")
    assert (tmp_path / "field.onnx").exists() and (tmp_path / "field.pt").exists()
