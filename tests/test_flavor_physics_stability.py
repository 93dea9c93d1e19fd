"""Linear growth by the determinant against the eigenvalues of the full matrix of directions."""

import numpy as np
import pytest
import torch

from thesis_surrogates.flavor.asymptotics import RATE_PER_DENSITY, C, lebedev, sampled_cells
from thesis_surrogates.flavor.generator import patch_cells, random_cells
from thesis_surrogates.flavor.stability import fastest_modes, growth_rate_lsa, linear_growth

RULE = lebedev(17)


def known_cells():
    cells = np.zeros((2, 4, 2, 3))
    cells[0, :, 0, 0] = np.array([0.0974, 0.0421, -0.1343, 1]) * 14.22e32
    cells[0, :, 1, 0] = np.array([0.0723, 0.0313, -0.3446, 1]) * 19.15e32
    cells[0, :, :, 1:] = (np.array([-0.0216, 0.0743, -0.5354, 1]) * 4.9125e32)[:, None, None]
    cells[1, 3, :, 0], cells[1, 2, :, 0] = 1e33, [1e33 / 3, -1e33 / 3]
    return cells


def eigenvalues(g, k):
    n = RULE.directions
    return np.linalg.eigvals(np.diag(n @ k) - (1 - n @ n.T) * (RULE.weights * g))


def test_growth_is_the_largest_eigenvalue_and_no_scan_finds_a_faster_wave():
    rng = np.random.default_rng(1)
    cells = torch.from_numpy(np.concatenate([patch_cells(rng, 20)[0][::20], random_cells(rng, 20)]))
    _, difference, crossed = sampled_cells(cells, *RULE.like(cells))
    difference = difference.numpy()[crossed.numpy()]
    omega, k = fastest_modes(difference, RULE)
    scale = abs(difference) @ RULE.weights
    assert len(omega) > 20 and np.mean(omega.imag > 0) > 0.8
    for g, o, at, one in zip(difference, omega, k, scale, strict=True):
        assert abs(eigenvalues(g, at).imag.max() - o.imag) < 1e-8 * one
        flux = (g * RULE.weights) @ RULE.directions
        small = (g * RULE.weights * (g * (g @ RULE.weights) < 0)) @ RULE.directions
        for axis in (flux, small):
            for number in (0.2, 0.35, 0.6):
                other = eigenvalues(g, number * one * axis / np.linalg.norm(axis)).imag.max()
                assert other < max(o.imag, 0.03 * one) + 1e-9 * one


def test_known_rates():
    rate = growth_rate_lsa(known_cells())
    assert abs(rate[0] / 6.25e10 - 1) < 3e-3 and abs(rate[1] / 1.324e11 - 1) < 1e-3
    np.testing.assert_allclose(growth_rate_lsa(torch.from_numpy(known_cells()).float()), rate, rtol=1e-5)


def test_stable_and_broken_cells_have_no_wave():
    cells = np.concatenate([known_cells(), np.zeros((2, 4, 2, 3)), known_cells()[:1]])
    cells[2, 3], cells[4, 0, 0, 0] = 1e33, np.nan
    rate = growth_rate_lsa(cells)
    assert rate[2] == rate[3] == 0 and np.isnan(rate[4]) and (rate[:2] > 0).all()
    assert growth_rate_lsa(cells[:0]).shape == (0,)


def test_the_wave_turns_with_the_cell_and_scales_with_its_density():
    cells = known_cells()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = cells.copy()
    turned[:, :3] = np.einsum("ij,bjsf->bisf", turn, cells[:, :3])
    here, there, twice = linear_growth(cells), linear_growth(turned), linear_growth(2 * cells)
    np.testing.assert_allclose(there.rate, here.rate, rtol=1e-6)
    np.testing.assert_allclose(
        there.wave_vector[0], turn @ here.wave_vector[0], rtol=0, atol=1e-3 * abs(here.wave_vector[0]).max()
    )
    np.testing.assert_allclose(twice.rate, 2 * here.rate, rtol=1e-9)
    fiducial_k = abs(here.wave_vector[1]) * C / (RATE_PER_DENSITY * cells[1, 3].sum())
    assert fiducial_k[2] == pytest.approx(np.linalg.norm(fiducial_k)) and 0.05 < fiducial_k[2] < 0.5


def test_a_crossing_among_the_heavy_flavors_grows_too():
    cells = np.zeros((1, 4, 2, 3))
    cells[0, 3, :, 1], cells[0, 2, :, 1] = 1e33, [1e33 / 3, -1e33 / 3]
    assert growth_rate_lsa(cells)[0] == pytest.approx(growth_rate_lsa(known_cells()[1:])[0], rel=1e-9)
