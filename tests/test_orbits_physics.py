"""Guards of the orbits physics: Kepler's equation everywhere, degenerate orbits, the metrics' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import skew

from thesis_surrogates.orbits.coordinates import Normalization2BP, UnitsError, require_normalized
from thesis_surrogates.orbits.generator import draw_elements, make_orbit_set, parse_set_name
from thesis_surrogates.orbits.kepler import (
    EARTH_RADIUS_KM,
    ELEMENT_NAMES,
    Elements,
    angular_momentum,
    elements_to_state,
    orbital_period,
    propagate_kepler,
    sample_times,
    solve_kepler,
    specific_energy,
    state_to_elements,
    two_body_acceleration,
)
from thesis_surrogates.orbits.metrics import acceleration_error, angle_error, distribution_statistics


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(0, 0.9999))
def test_kepler_equation_holds(mean: float, eccentricity: float) -> None:
    found = float(solve_kepler(np.array(mean), np.array(eccentricity)))
    assert abs(found - eccentricity * np.sin(found) - mean) < 1e-12 * max(1, abs(mean))


@pytest.mark.parametrize("eccentricity", [-0.1, 1.0, 1.5, np.nan])
def test_kepler_refuses_what_is_not_an_ellipse(eccentricity: float) -> None:
    with pytest.raises(ValueError, match="eccentricity"):
        solve_kepler(np.array([0.3]), np.array([eccentricity]))


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1, 8),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-3, 0.3, 0.85]),
    st.sampled_from([0.0, 1e-12, 0.4, np.pi / 2, 3.0, np.pi]),
    st.floats(0, 6.28),
    st.floats(0, 6.28),
    st.floats(0, 6.28),
)
def test_elements_round_trip(a: float, e: float, i: float, raan: float, argp: float, nu: float) -> None:
    values = dict(zip(ELEMENT_NAMES, (np.array([x]) for x in (a, e, i, raan, argp, nu)), strict=True))
    state = elements_to_state(Elements(**values), mu=1.0)
    names = state_to_elements(state, mu=1.0)
    again = elements_to_state(names, mu=1.0)
    assert np.abs(again - state).max() < 1e-7 * a
    assert np.isfinite(names.as_array()).all()


@pytest.mark.parametrize("eccentricity", [0.0, 0.3, 0.849])
def test_closed_form_against_dop853(eccentricity: float) -> None:
    start = np.array([[1 - eccentricity, 0, 0, 0, 0.8, 0.6]]) * np.array(
        [1, 1, 1, 1, *(2 * [np.sqrt((1 + eccentricity) / (1 - eccentricity))])]
    )
    times = np.arange(360) / 360 * 2 * np.pi
    exact = propagate_kepler(start, times)[0]
    numeric = solve_ivp(
        lambda t, y: np.concatenate([y[3:], two_body_acceleration(y[:3])]),
        (0, times[-1]),
        start[0],
        method="DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-15,
    ).y.T
    assert np.abs(exact - numeric).max() < 1e-9
    energy, momentum = specific_energy(exact), angular_momentum(exact)
    assert np.ptp(energy) < 1e-12 * abs(energy[0])
    assert np.ptp(np.linalg.norm(momentum, axis=-1)) < 1e-12


@pytest.mark.parametrize(
    "name", ["complex_TBP_planar_1000_train", "simple_TBP_nonplanar_50_test", "single_TBP_planar_1_train"]
)
def test_sets_stay_in_their_box(name: str) -> None:
    elements = draw_elements(name, seed=3)
    assert len(elements.eccentricity) == parse_set_name(name).orbits
    assert (elements.semi_major_axis * (1 - elements.eccentricity) >= EARTH_RADIUS_KM).all()
    assert (elements.inclination == 0).all() == parse_set_name(name).planar


@pytest.mark.parametrize("name", ["complex_TBP_planar_0_train", "complex_TBP_planar_10", "hard_TBP_planar_1_test", ""])
def test_bad_set_names(name: str) -> None:
    with pytest.raises(ValueError, match="complex_TBP_planar_100_train"):
        parse_set_name(name)


def test_seeds_and_names_open_their_own_streams() -> None:
    name = "complex_TBP_planar_20_train"
    one, same, other = (make_orbit_set(name, seed, points=4) for seed in (0, 0, 1))
    assert np.array_equal(one.state, same.state) and not np.array_equal(one.state, other.state)


@pytest.mark.parametrize("anomaly", ["mean", "eccentric", "true"])
def test_times_increase_within_one_period(anomaly: str) -> None:
    elements = draw_elements("complex_TBP_planar_50_train", seed=0)
    times = sample_times(elements, 90, anomaly, 398600.4418)  # type: ignore[arg-type]
    assert (np.diff(times) > 0).all() and (times[:, 0] == 0).all()
    assert (times[:, -1] < orbital_period(elements.semi_major_axis, 398600.4418)).all()


def test_units_guard() -> None:
    units = Normalization2BP()
    km = np.array([[7000.0, 0, 0, 0, 7.5, 0]])
    assert abs(units.time_s - 806.8111) < 5e-5
    with pytest.raises(UnitsError):
        require_normalized(km)
    with pytest.raises(UnitsError):
        units.normalize(units.normalize(km))
    with pytest.raises(UnitsError, match="6 components"):
        units.normalize(km[:, :5])


def test_rotation_gives_its_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    axis = torch.linalg.cross(vector, torch.randn(100, 3, generator=generator, dtype=torch.float64))
    axis = axis / axis.norm(dim=-1, keepdim=True)
    turned = vector * np.cos(np.deg2rad(10)) + torch.linalg.cross(axis, vector) * np.sin(np.deg2rad(10))
    assert torch.allclose(angle_error(vector, turned), torch.full((100,), 10.0, dtype=torch.float64))
    assert torch.allclose(acceleration_error(vector, turned), torch.full((100,), 17.431148549, dtype=torch.float64))
    with pytest.raises(ValueError, match="3 components"):
        acceleration_error(torch.ones(2, 6), torch.ones(2, 6))


@pytest.mark.parametrize("values", [np.array([1.0, 2, 3, 4, 100]), np.random.default_rng(1).exponential(size=500)])
def test_distribution_formulas(values: np.ndarray) -> None:
    found = distribution_statistics(values)
    q1, q2, q3 = np.percentile(values, [25, 50, 75])
    assert np.isclose(found["skewness"], skew(values)) and np.isclose(found["median"], q2)
    assert np.isclose(found["bowley"], (q1 + q3 - 2 * q2) / (q3 - q1))
    assert np.isclose(found["pearson_sk2"], 3 * (values.mean() - q2) / values.std())


@pytest.mark.parametrize("values", [np.full(5, 3.0), np.array([]), np.array([np.nan, np.nan]), np.array([2.0])])
def test_distribution_of_nothing_does_not_crash(values: np.ndarray) -> None:
    assert np.isnan(distribution_statistics(values)["skewness"])
