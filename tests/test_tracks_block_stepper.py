"""Runge-Kutta over blocks of tracks against the loop over single ones: all fields, sizes of blocks, and broken rows."""

from __future__ import annotations

import numpy as np
import pytest

from thesis_surrogates.tracks import baselines
from thesis_surrogates.tracks.block_stepper import BLOCK, block_precisions, propagate_blocks
from thesis_surrogates.tracks.field import DipoleField, GaussianField, GridField, LHCbLikeField, UniformField
from thesis_surrogates.tracks.propagation import PropagationError, propagate

FIELDS = (UniformField(), GaussianField(), DipoleField(), LHCbLikeField(), LHCbLikeField(polarity=-1))


def tracks(n, seed=0):
    rng = np.random.default_rng(seed)
    state = np.stack([*rng.normal(0, 300, (2, n)), *rng.normal(0, 0.1, (2, n))], axis=1)
    return state, rng.choice([-1, 1], n) / rng.uniform(3, 50, n)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{type(field).__name__}{field.polarity}")
@pytest.mark.parametrize("ends", [(2665.0, 7826.0), (7826.0, 2665.0)])
def test_one_leg_gives_the_states_of_single_tracks(field, ends):
    state, charge = tracks(200)
    planes = [np.full(200, end) for end in ends]
    for step in (2000.0, 300.0):
        expected = propagate(state, charge, *ends, field, "rk4", step)
        for precision, limit in zip(block_precisions(field, True), (1e-8, 5e-3), strict=False):
            found = propagate_blocks(state, charge, *planes, field, step, precision)
            assert np.array_equal(np.isnan(found), np.isnan(expected))
            assert np.nanmax(np.abs(found - expected)) < limit


@pytest.mark.parametrize("field", FIELDS[1:4], ids=lambda field: type(field).__name__)
def test_legs_of_their_own_forward_backward_and_of_no_length(field):
    state, charge = tracks(300, seed=2)
    begin, end = np.random.default_rng(3).uniform(0, 9000, (2, 300))
    end[:5] = begin[:5]
    found = propagate_blocks(state, charge, begin, end, field, 10.0)
    assert np.nanmax(np.abs(found - propagate(state, charge, begin, end, field, "rk4", 10.0))) < 1e-6
    assert np.array_equal(found[:5], state[:5])


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("same", [True, False])
def test_any_number_of_tracks(n, same):
    state, charge = tracks(n)
    begin, end = np.full(n, 2665.0), np.full(n, 7826.0)
    if not same:
        end = end + np.arange(n)
    found = propagate_blocks(state, charge, begin, end, LHCbLikeField(), 100.0)
    assert found.shape == (n, 4)
    expected = propagate(state, charge, begin, end, LHCbLikeField(), "rk4", 100.0)
    assert np.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_a_broken_row_is_nan_and_its_neighbours_stay_as_they_are(same):
    state, charge = tracks(100)
    begin, end = np.full(100, 2665.0), np.full(100, 7826.0) + (0 if same else np.arange(100))
    good = propagate_blocks(state, charge, begin, end, LHCbLikeField(), 200.0)
    state[7, 2], charge[11], begin[13] = np.nan, np.inf, np.nan
    charge[17] = 1e3  # turns over
    found = propagate_blocks(state, charge, begin, end, LHCbLikeField(), 200.0)
    broken = [7, 11, 13, 17]
    assert np.isnan(found[broken]).all()
    rest = np.delete(np.arange(100), broken)
    assert np.allclose(found[rest], good[rest], rtol=0, atol=1e-5) and np.isfinite(found[rest]).all()
    state[:] = np.nan
    assert np.isnan(propagate_blocks(state, charge, begin, end, LHCbLikeField(), 200.0)).all()


def test_what_has_no_form_over_blocks_is_refused():
    state, charge = tracks(3)
    begin, end, other = np.full(3, 2665.0), np.full(3, 7826.0), np.array([5.0, 6.0, 7.0])
    grid = GridField.sample(DipoleField())
    for arguments in ((begin, end, grid, 100.0), (begin, other, LHCbLikeField(), 100.0, "float32")):
        with pytest.raises(PropagationError, match="over blocks for .*use propagate"):
            propagate_blocks(state, charge, *arguments)
    with pytest.raises(PropagationError, match="step is 0"):
        propagate_blocks(state, charge, begin, end, LHCbLikeField(), 0.0)


@pytest.mark.parametrize(
    "field, one_leg, expected",
    [
        (LHCbLikeField(), True, {"blocks of tracks, float64", "blocks of tracks, float32", "one track at a time"}),
        (LHCbLikeField(), False, {"blocks of tracks, float64", "one track at a time"}),
        (GridField.sample(DipoleField()), True, {""}),
    ],
    ids=["one leg", "legs", "map"],
)
def test_a_baseline_has_every_implementation_that_its_field_allows(field, one_leg, expected):
    entries = baselines.stepper_baselines(field, 5161.0, "labels", one_leg)
    assert {entry.implementation for entry in entries if entry.name.startswith("RK4")} == expected
    assert len({entry.title for entry in entries}) == len(entries)
    steps = {entry.name for entry in entries if entry.name.startswith("RK4")}
    assert steps == {f"RK4 {n} steps" for n in baselines.STEP_COUNTS}, "the knob is scanned in one of them at least"
