"""The closure, the crossing test and the rates against independent references, in both precisions and at every door."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from thesis_surrogates.flavor.asymptotics import (
    RATE_PER_DENSITY,
    box3d,
    final_cells,
    final_state,
    growth_rate,
    lebedev,
    power_half,
    product_rule,
)
from thesis_surrogates.flavor.closure import growth_rate_estimate, has_crossing, max_entropy_z
from thesis_surrogates.flavor.crossing import crosses, discriminant, pairs_that_cross
from thesis_surrogates.flavor.distributions import angular_density, distribution, inverse_langevin, log_shape

RULE = lebedev(17)
SCHEMES = {"box3d": box3d, "power-1/2": power_half}


def random_cells(count, seed, largest_flux=0.85, lowest_flux=0.0):
    """N uniform in (0.01, 1) x 1e33, flux factor uniform, isotropic."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 1, (count, 1, 2, 3)) * 1e33
    way = rng.normal(size=(count, 3, 2, 3))
    way *= rng.uniform(lowest_flux, largest_flux, (count, 1, 2, 3)) / np.linalg.norm(way, axis=1, keepdims=True)
    return np.concatenate([way * density, density], axis=1)


def equal_heavies(cells):
    cells = cells.copy()
    cells[:, :, 0, 1:] = cells[:, :, 1, 1:]
    cells[:, :, :, 2] = cells[:, :, :, 1]
    return cells


def nsm1():
    cell = np.zeros((1, 4, 2, 3))
    cell[0, :, 0, 0] = np.array([0.0974, 0.0421, -0.1343, 1]) * 14.22e32
    cell[0, :, 1, 0] = np.array([0.0723, 0.0313, -0.3446, 1]) * 19.15e32
    cell[0, :, :, 1:] = (np.array([-0.0216, 0.0743, -0.5354, 1]) * 4.9125e32)[:, None, None]
    return cell


def opposite_streams(flux_factor):
    cell = np.zeros((1, 4, 2, 3))
    cell[0, 3, :, 0], cell[0, 2, :, 0] = 1e33, [1e33 * flux_factor, -1e33 * flux_factor]
    return cell


def over_total(change, cells):
    return abs(np.asarray(change, dtype=float)).max((1, 2, 3)) / cells[:, 3].sum((1, 2))


@pytest.mark.parametrize("flux_factor", [0.1, 1 / 3, 0.5, 0.9, 0.99])
def test_sharpness_is_the_root_that_bisection_finds(flux_factor):
    root = brentq(lambda z: 1 / np.tanh(z) - 1 / z - flux_factor, 1e-3, 1e3, xtol=1e-13)
    assert abs(max_entropy_z(np.array([flux_factor]))[0] / root - 1) < 1e-9


def test_sharpness_keeps_its_digits_in_single_precision():
    exact = {1e-7: 3e-7, 1e-3: 3.0000018e-3, 0.1: 0.3018171492, 0.9: 9.9999995878, 0.95: 20.0}
    for flux_factor, sharpness in exact.items():
        single = np.array([flux_factor], dtype=np.float32)
        inside = float(single[0]) / flux_factor  # the input itself is rounded
        tolerance = 2e-7 + 2 * abs(inside - 1) / (1 - flux_factor)
        assert abs(float(max_entropy_z(single)[0]) / sharpness - 1) < tolerance


def test_sharpness_has_the_right_slope_everywhere():
    f = torch.tensor([1e-4, 0.2, 0.5373, 0.6, 0.95, 0.998], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inverse_langevin, (f,))
    assert torch.autograd.gradcheck(log_shape, (f * 3,))


@pytest.mark.parametrize("flux_factor", [0.0, 0.3, 0.9])
def test_the_distribution_has_its_moments(flux_factor):
    species = np.array([0, 0, flux_factor, 2.0]) * [1, 1, 2, 1]

    def along(mu):
        return float(angular_density(species, np.array([[np.sqrt(1 - mu * mu), 0, mu]]))[0])

    assert abs(2 * np.pi * quad(along, -1, 1)[0] - 2) < 1e-9
    assert abs(2 * np.pi * quad(lambda mu: mu * along(mu), -1, 1)[0] - 2 * flux_factor) < 1e-9


def test_a_species_with_flux_and_no_neutrinos_is_empty():
    cells = random_cells(3, 0)
    cells[1, 3, 0, 0], cells[1, 0, 0, 0] = 0.0, 1e20
    for found in (growth_rate_estimate(cells), box3d(cells), power_half(cells.astype(np.float32))):
        assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arrays_and_tensors_keep_kind_and_precision(kind):
    cells = random_cells(5, 0).astype(kind)
    for door in (box3d, power_half, growth_rate_estimate, has_crossing):
        array, tensor = door(cells), door(torch.from_numpy(cells))
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        assert np.array_equal(array, tensor.numpy())
        assert door is has_crossing or array.dtype == kind
        assert len(door(cells[:0])) == 0 and np.allclose(door(cells[:1]), array[:1], rtol=1e-5)


def test_label_is_exact_where_heavies_cancel():
    cells = equal_heavies(random_cells(1500, 0, 0.9))
    fine = product_rule(60, 120)
    species = np.moveaxis(cells, 1, -1)
    g = angular_density(species[:, 0, 0], fine.directions) - angular_density(species[:, 1, 0], fine.directions)
    sampled = (g.max(1) > 0) & (g.min(1) < 0)
    label = has_crossing(cells)
    assert not (sampled & ~label).any() and np.mean(label == sampled) > 0.999
    searched = pairs_that_cross(torch.from_numpy(cells), torch.from_numpy(RULE.directions))
    assert np.array_equal(searched[:, 0].numpy(), label) and not searched[:, 2].any()


def test_no_crossing_that_dense_sampling_sees_is_missed():
    cells = random_cells(600, 3, 0.97)
    fine = torch.from_numpy(product_rule(48, 96).directions)
    found = has_crossing(cells)
    for k in range(0, len(cells), 100):
        part = torch.from_numpy(cells[k : k + 100])
        g = distribution(part.permute(0, 2, 3, 1), fine)
        per_flavor = g[:, 0] - g[:, 1]
        seen = np.zeros(len(part), dtype=bool)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            difference = per_flavor[:, i] - per_flavor[:, j]
            seen |= ((difference.amax(1) > 0) & (difference.amin(1) < 0)).numpy()
        assert not (seen & ~found[k : k + 100]).any()


@pytest.mark.parametrize("flux_factor", [0.3, 0.01, 0.001])
def test_nearly_isotropic_equal_densities_cross(flux_factor):
    cell = opposite_streams(flux_factor)
    assert has_crossing(cell).tolist() == has_crossing(cell.astype(np.float32)).tolist() == [True]
    assert growth_rate_estimate(cell)[0] > 0
    np.testing.assert_allclose(box3d(cell)[0, 3] / 1e33, 1 / 3, atol=5e-3)


@pytest.mark.parametrize("flux_factor", [0.1, 0.9, 0.999, 1.0])
def test_one_flavor_alone_never_crosses(flux_factor):
    cells = np.zeros((6, 4, 2, 3))
    for k in range(6):
        cells[k, 2:, k // 3, k % 3] = flux_factor * 1e33, 1e33
    for kind in (np.float32, np.float64):
        assert not has_crossing(cells.astype(kind)).any()
        assert np.array_equal(power_half(cells.astype(kind)), cells.astype(kind))


@pytest.mark.parametrize("largest_flux", [0.95, 0.97])
def test_discriminant_and_label_survive_a_rotation_in_single_precision(largest_flux):
    cells = equal_heavies(random_cells(2000, 5, largest_flux, largest_flux - 1e-6))
    cells[:, :, 1, 0] *= 1e-5 if largest_flux > 0.96 else 1.0
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = cells.copy()
    turned[:, :3] = np.einsum("ij,bjsf->bisf", turn, cells[:, :3])
    found = []
    for some in (cells, turned):
        single = torch.from_numpy((some / 1e33).astype(np.float32))
        found.append(discriminant(single[:, :, 0, 0], single[:, :, 1, 0]).double().numpy())
    scale = 1 / (1 - largest_flux)  # digits that the flux factor itself has lost
    assert (abs(found[1] - found[0]) / (1 + scale**2)).max() < 2e-6 * scale


def test_a_row_that_is_not_finite_has_no_rate_and_spoils_no_other():
    cells = random_cells(6, 0)
    cells[1, 3, 0, 0], cells[3, 0, 1, 2], cells[5, 3, 1, 1] = np.nan, np.inf, np.inf
    rate, good = growth_rate_estimate(cells), [0, 2, 4]
    assert np.isnan(rate[[1, 3, 5]]).all()
    np.testing.assert_array_equal(rate[good], growth_rate_estimate(cells[good]))
    for scheme in SCHEMES.values():
        np.testing.assert_array_equal(scheme(cells)[good], scheme(cells[good]))


def test_nsm1_as_in_the_literature():
    emu = np.array([[9.9546e32, 7.8547e32, 6.2329e32], [1.48813e33, 7.8547e32, 6.2329e32]])
    total = nsm1()[0, 3].sum()
    assert abs(total / 5.302e33 - 1) < 1e-3 and abs(growth_rate_estimate(nsm1())[0] / 4.814e10 - 1) < 1e-3
    assert (abs(power_half(nsm1())[0, 3] - emu)[:, 0] / total).max() < 0.005
    assert (abs(box3d(nsm1())[0, 3] - emu)[:, 0] / total).max() < 0.02


def test_estimate_equals_adaptive_integration():
    """Opposite streams along z: both integrals by quad, the two sides split at the crossing."""
    z = max_entropy_z(np.array([1 / 3]))[0]
    half = quad(lambda mu: z / np.sinh(z) * np.sinh(z * mu), 0, 1, epsabs=1e-13)[0]  # of N, azimuth integrated
    assert abs(growth_rate_estimate(opposite_streams(1 / 3))[0] / (RATE_PER_DENSITY * 1e33 * half) - 1) < 2e-3


@pytest.mark.parametrize("flux_factor", [0.99, 0.999, 1.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharp_beams_end_with_physical_densities(scheme, flux_factor):
    cells = random_cells(8, 2, flux_factor, flux_factor)
    total = cells[:, 3].sum((1, 2))[:, None, None]
    for final in (SCHEMES[scheme](cells), final_state(cells, RULE, scheme)):
        assert (final[:, 3] >= -1e-15 * total).all()
        change = (final - cells) / total[:, None]
        assert abs(change.sum(-1)).max() < 1e-13 and abs(change[:, 3, 0] - change[:, 3, 1]).max() < 1e-12
    length = np.linalg.norm(SCHEMES[scheme](cells)[:, :3], axis=1)
    assert ((length - SCHEMES[scheme](cells)[:, 3]) / total).max() < 1e-3


def test_refined_rules_agree_with_a_much_finer_one():
    cells = random_cells(3, 4, 0.99, 0.97)
    fine = product_rule(200, 400)
    for name, scheme in SCHEMES.items():
        assert np.median(over_total(scheme(cells) - final_state(cells, fine, name, block=1), cells)) < 3e-4


def test_stable_cells_keep_every_bit():
    cells = np.concatenate([random_cells(400, 1), equal_heavies(random_cells(400, 2))])
    stable = cells[~has_crossing(cells)]
    assert len(stable) > 50 and (growth_rate_estimate(stable) == 0).all()
    for scheme in SCHEMES.values():
        assert np.array_equal(scheme(stable), stable)
        assert np.array_equal(scheme(stable.astype(np.float32)), stable.astype(np.float32))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_have_gradients(scheme):
    directions, weights = torch.from_numpy(RULE.directions), torch.from_numpy(RULE.weights)
    cells = torch.from_numpy(random_cells(2, 1) / 1e33).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: final_cells(x, directions, weights, scheme), (cells,))
    zero = torch.zeros(1, 4, 2, 3, dtype=torch.float64)
    zero[:, 3] = 1
    zero.requires_grad_()
    final_cells(zero, directions, weights, scheme).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("core", [crosses, final_cells])
def test_networks_can_script_and_export_the_core(core):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("directions", torch.from_numpy(RULE.directions).float())
            self.register_buffer("weights", torch.from_numpy(RULE.weights).float())

    class Crosses(Wrapped):
        def forward(self, f4):
            return crosses(f4, self.directions)

    class Final(Wrapped):
        def forward(self, f4):
            return final_cells(f4, self.directions, self.weights, "box3d")

    module = Crosses() if core is crosses else Final()
    cells = torch.from_numpy((random_cells(16, 1) / 1e33).astype(np.float32))
    scripted = torch.jit.script(module)
    batch = torch.export.Dim("batch", min=0)
    exported = None if core is crosses else torch.export.export(module, (cells,), dynamic_shapes=({0: batch},)).module()
    for count in (0, 1, 7, 16):
        expected = module(cells[:count])
        assert torch.equal(scripted(cells[:count]), expected)
        if exported is not None:
            torch.testing.assert_close(exported(cells[:count]), expected)


def test_growth_rate_of_a_rule_scales_with_the_density():
    cells = random_cells(20, 7)
    np.testing.assert_allclose(growth_rate(cells * 1e-30, RULE) * 1e30, growth_rate(cells, RULE), rtol=1e-12)
