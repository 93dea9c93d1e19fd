"""The compiled schemes are the torch ones, in both precisions, for equal and different heavies."""

import numpy as np
import pytest

from thesis_surrogates.flavor.asymptotics import SCHEMES, final_cells, final_state, growth_rate, lebedev, power_half
from thesis_surrogates.flavor.compiled.schemes import scheme_compiled
from thesis_surrogates.flavor.distributions import tensor_of
from thesis_surrogates.flavor.generator import one_flavor_cells, patch_cells, random_cells, zero_flux_cells

RULE = lebedev(17)


def all_kinds():
    rng = np.random.default_rng(0)
    made = [patch_cells(rng, 6)[0][::5], random_cells(rng, 60), zero_flux_cells(rng, 5), one_flavor_cells(rng, 6)]
    return np.concatenate(made)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_is_torch(scheme):
    cells = all_kinds()
    total = np.maximum(cells[:, 3].sum((1, 2)), 1e-30)
    slow, (fast, rate) = final_state(cells, RULE, scheme), scheme_compiled(cells, RULE, scheme)
    assert (abs(fast - slow).max((1, 2, 3)) / total).max() < 1e-12
    np.testing.assert_allclose(rate, growth_rate(cells, RULE), rtol=1e-9)
    single, _ = scheme_compiled(cells.astype(np.float32), RULE, scheme)
    assert single.dtype == np.float32
    assert np.quantile(abs(single - slow).max((1, 2, 3)) / total, 0.95) < 2e-6
    untouched = rate == 0
    assert untouched.any() and np.array_equal(fast[untouched], cells[untouched])


def test_a_broken_row_stays_as_it_is():
    cells = all_kinds()[:4]
    cells[1, 3, 0, 0], cells[2, 0, 1, 1] = np.nan, np.inf
    final, rate = scheme_compiled(cells, RULE, "power-1/2")
    np.testing.assert_array_equal(final[1:3], cells[1:3])
    assert np.isnan(rate[1:3]).all() and np.isfinite(rate[[0, 3]]).all()
    np.testing.assert_array_equal(final[[0, 3]], scheme_compiled(cells[[0, 3]], RULE, "power-1/2")[0])
    assert len(scheme_compiled(cells[:0], RULE, "box3d")[0]) == 0
    with pytest.raises(ValueError, match="unknown; valid"):
        scheme_compiled(cells, RULE, "box")


def test_weighted_pairs_are_continuous_and_conserve():
    """A third pair that crosses in a spot must not change what the other two do."""
    cells = tensor_of(random_cells(np.random.default_rng(1), 150))
    total = cells[:, 3].sum((1, 2))[:, None, None, None]
    weighted, counted = power_half(cells, "weighted"), power_half(cells)
    change = (weighted - cells) / total
    assert abs(change.sum(-1)).max() < 1e-13 and abs(change[:, 3, 0] - change[:, 3, 1]).max() < 1e-12
    assert (weighted[:, 3] >= 0).all() and abs(weighted - counted).max() > 0
    equal = cells.clone()
    equal[..., 2] = equal[..., 1]
    np.testing.assert_allclose(power_half(equal, "weighted") / total, power_half(equal) / total, atol=1e-13)
    near = cells.clone()
    near[:, :3] *= 1 + 1e-6
    rule = RULE.like(cells)
    moved = final_cells(near, *rule, "power-1/2", "weighted") - final_cells(cells, *rule, "power-1/2", "weighted")
    assert (abs(moved) / total).max() < 1e-4
