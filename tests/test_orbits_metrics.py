"""Guards of the metrics: truth first, failed orbits, quantiles with infinities, errors of a path, counts of steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from thesis_surrogates.core.data import Data, Tensors
from thesis_surrogates.orbits.baselines import (
    accelerations,
    adaptive_propagation,
    baselines,
    by_kepler,
    exact_field,
    predict_orbits,
)
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.metrics import (
    acceleration_error,
    angle_error,
    distribution_statistics,
    quantiles,
    rank_orbits,
    score,
)
from thesis_surrogates.orbits.path_errors import path_errors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    config = OrbitsData(train_set="complex_TBP_planar_3_train", test_set="complex_TBP_planar_5_test", points=40)
    path = tmp_path_factory.mktemp("metrics") / "o.h5"
    make_data(config, path)
    return load_data(config, path)


def with_failure(data: Data) -> tuple[Tensors, Tensors]:
    test = data.splits["test"]
    predictions = predict_orbits(exact_field, by_kepler, test)
    predictions["rollout"][1, 20:] = torch.nan
    predictions["rollout_acceleration"][1, 20:] = torch.nan
    return predictions, test


def test_truth_comes_first() -> None:
    true, wrong = torch.tensor([[2.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    assert acceleration_error(true, wrong).item() == 50 and acceleration_error(wrong, true).item() == 100
    assert angle_error(true, -wrong).item() == 180
    assert acceleration_error(np.array([[2.0, 0, 0]]), np.array([[1.0, 0, 0]])).item() == 50  # type: ignore[arg-type]


def test_a_failed_orbit_is_infinite_in_every_quantile_and_in_no_mean(data: Data) -> None:
    predictions, test = with_failure(data)
    found = score(predictions, test)
    assert found.metrics["failed_percent"] == 20
    assert (found.metrics["finished_orbits"], found.metrics["orbits"]) == (4, 5)
    assert all(
        math.isfinite(found.metrics[name]) for name in ("closure_percent", "closure_km", "position_rmse_percent")
    )
    assert found.metrics["rollout_acceleration_error_percent"] < 1e-9
    for name in ("closure_percent", "position_rmse_percent", "phase_deg", "energy_drift_percent"):
        assert np.isinf(found.samples[name]).tolist() == [False, True, False, False, False]
    most = {**predictions, "rollout": predictions["rollout"].clone()}
    most["rollout"][2:, -1] = torch.nan
    worse = score(most, test).metrics
    assert worse["finished_orbits"] == 1 and math.isinf(worse["closure_median_percent"])
    assert math.isinf(worse["final_position_median_percent"]) and math.isfinite(worse["final_position_percent"])


def test_an_orbit_that_fails_before_its_period_ends_has_failed(data: Data) -> None:
    test = data.splits["test"]
    predictions = predict_orbits(exact_field, by_kepler, test)
    predictions["rollout"][0, 5] = torch.inf  # the column after one period is finite
    assert score(predictions, test).metrics["failed_percent"] == 20


def test_nothing_finite_is_said_where_all_fail(data: Data) -> None:
    predictions, test = with_failure(data)
    predictions["rollout"][:] = torch.nan
    found = score(predictions, test).metrics
    assert found["finished_orbits"] == 0 and math.isnan(found["closure_percent"])
    assert math.isinf(found["closure_median_percent"]) and found["acceleration_error_percent"] < 1e-9


def test_worst_orbits_first(data: Data) -> None:
    predictions, test = with_failure(data)
    table = rank_orbits(score(predictions, test), test, count=3)
    assert table.orbit[0] == 1 and np.isinf(table.closure_percent[0]) and len(table) == 3
    assert table.eccentricity[0] == pytest.approx(float(test["eccentricity"][1]))


@pytest.mark.parametrize("places", [[0.25, 0.5, 0.75]])
def test_quantiles_of_finite_values_are_those_of_numpy(places: list[float]) -> None:
    values = np.random.default_rng(0).lognormal(size=101)
    assert np.array_equal(quantiles(values, places), np.quantile(values, places))
    assert quantiles(np.array([1.0, np.inf, np.inf]), places).tolist() == [math.inf, math.inf, math.inf]
    assert quantiles(np.array([1.0, 2.0, 3.0, 4.0, np.inf], np.float32), places).tolist() == [2, 3, 4]
    assert np.isnan(quantiles(np.array([np.nan]), places)).all()


def test_outliers_are_counted() -> None:
    found = distribution_statistics(np.array([1.0, 2, 3, 4, 100, np.nan]))
    assert (found["q1"], found["median"], found["q3"], found["n_outliers"], found["n_finite"]) == (2, 3, 4, 1, 5)


def test_all_three_errors_have_angle_and_direction(data: Data) -> None:
    test = data.splits["test"]
    exact = predict_orbits(exact_field, by_kepler, test)
    turned = {**exact, "rollout_acceleration": -exact["rollout_acceleration"]}
    found = score(turned, test).metrics
    assert found["radial_percent"] == 0 and found["theta_deg"] < 1e-6
    for name in ("rollout_", "mismatch_"):
        assert found[f"{name}radial_percent"] == 100 and found[f"{name}theta_deg"] == pytest.approx(180)


def test_errors_of_a_path_ignore_padding(data: Data) -> None:
    test = dict(data.splits["test"])
    rolled = test["state"] * 1.001
    whole = path_errors(rolled, test)
    mask = test["mask"].clone()
    mask[:, 30:] = False
    padded = {**test, "mask": mask, "state": torch.where(mask[..., None], test["state"], torch.nan)}
    cut = {name: value[:, :30] if value.ndim > 1 else value for name, value in test.items()}
    for name, values in path_errors(rolled, padded).items():
        assert torch.allclose(values, path_errors(rolled[:, :30], cut)[name]), name
        assert torch.isfinite(whole[name]).all(), name


def test_solvers_tell_what_they_did(data: Data) -> None:
    test = data.splits["test"]
    found = score(predict_orbits(exact_field, adaptive_propagation(exact_field), test), test).metrics
    assert found["solver_evaluations"] == pytest.approx(1 + 6 * (found["solver_accepted"] + found["solver_rejected"]))
    assert 0 < found["solver_mean_step"] < 10
    assert not any(
        name.startswith("solver_") for name in score(predict_orbits(exact_field, by_kepler, test), test).metrics
    )
    assert {entry.name for entry in baselines(data)} == {"no force", "exact field", "DOP853", "Kepler"}


def test_a_field_is_asked_in_pieces(data: Data) -> None:
    sizes: list[int] = []

    def counted(state: Tensor) -> Tensor:
        sizes.append(len(state))
        return exact_field(state)

    state = data.splits["test"]["state"]
    assert torch.equal(accelerations(counted, state, rows=64), exact_field(state)[..., 3:])
    assert max(sizes) == 64 and sum(sizes) == 200
