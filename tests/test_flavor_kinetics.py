"""A quantum-kinetic box: what it conserves, how fast it grows, which cells it leaves alone, what turning changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from thesis_surrogates.flavor.kinetics import FLAGS, Cell, Protocol, mixing_matrices, plan_box, simulate
from thesis_surrogates.flavor.study.kinetic.box import (
    Box,
    State,
    advance,
    box_directions,
    frame_around,
    run_box,
    shift_factors,
)
from thesis_surrogates.flavor.study.kinetic.dispersion import find_along, find_fastest

EMU_NE = 9.9546e32


def nsm1() -> np.ndarray:
    cell = np.zeros((1, 4, 2, 3))
    cell[0, :, 0, 0] = np.array([0.0974, 0.0421, -0.1343, 1]) * 14.22e32
    cell[0, :, 1, 0] = np.array([0.0723, 0.0313, -0.3446, 1]) * 19.15e32
    cell[0, :, :, 1:] = (np.array([-0.0216, 0.0743, -0.5354, 1]) * 4.9125e32)[:, None, None]
    return cell


def turned(f4: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    out = f4.copy()
    out[:, :3] = np.einsum("ij,njsf->nisf", rotation, f4[:, :3])
    return out


def small_box(spinors: int = 1, kind: type = np.float64, points: int = 32) -> Box:
    """An axisymmetric crossing on few directions, with weaker mixing of mu for a second spinor."""
    rule = box_directions(5, np.eye(3))
    g = rule.weights * (0.3 - rule.vectors[:, 0]) / (4 * np.pi)
    return Box(rule, np.stack([g, 0.4 * g])[:spinors], 30.0, points, 16, float(abs(g).sum()), kind)


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("spinors", [1, 2])
def test_norm_and_lepton_number_are_kept(kind, tolerance, spinors):
    late = run_box(small_box(spinors, kind), seed=0, growth=0.15, end=150.0)
    assert late.norm_error < tolerance
    assert late.lepton_error < 1e-5
    assert late.means[:, 0, 0].mean() < 0.95  # it did convert


def test_shift_is_exact_and_keeps_what_is_at_the_highest_mode():
    points = 16
    x = np.arange(points)
    factors = shift_factors(np.array([0.3, -1.0]), points, 2.5)
    wave = np.cos(2 * np.pi * 3 * x / points)
    moved = np.fft.irfft(np.fft.rfft(wave) * factors[:, :, 0], points)
    np.testing.assert_allclose(moved[1], np.cos(2 * np.pi * 3 * (x + 2.5) / points), atol=1e-14)
    noise = np.random.default_rng(0).normal(size=points)
    moved = np.fft.irfft(np.fft.rfft(noise) * factors[:, :, 0], points)
    np.testing.assert_allclose((moved**2).sum(1), (noise**2).sum())


def shifted(p: np.ndarray, mu: np.ndarray, cells: float) -> np.ndarray:
    factors = shift_factors(mu, p.shape[1], cells)[..., None]
    return np.ascontiguousarray(np.fft.irfft(np.fft.rfft(p, axis=1) * factors, p.shape[1], axis=1))


def test_second_order_in_the_step():
    ends = []
    for step in (0.4, 0.2, 0.1):
        box = small_box()
        state = State(box, seed=1)
        cells = step / box.bound * box.points / box.length
        factors = shift_factors(box.directions.mu, box.points, cells)
        state.p = shifted(state.p, box.directions.mu, -cells / 2)  # a shift before a turn: half of it is Strang's
        for _ in range(round(8 / step)):
            advance(state, step / box.bound, factors, 1e-12)
        p = shifted(state.p, box.directions.mu, cells / 2)
        psi = p[:, :, ::2] + 1j * p[:, :, 1::2]
        ends.append(psi[:, :, 1:] * psi[:, :, :1].conj())  # without the free phase
    order = np.log2(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(ends[1] - ends[2]))
    assert 1.7 < order < 2.3


def test_growth_is_that_of_all_directions_together():
    cell = Cell(nsm1()[0], nsm1()[0, 3].sum())
    rule = box_directions(17, frame_around(np.array([0.2, 0.1, 1.0]), np.zeros(3)))
    g = cell.densities(rule.vectors)
    weights = rule.weights * ((g[0] - g[1])[0] - (g[0] - g[1])[1])
    fastest = find_fastest(weights, rule.vectors)
    along = find_along(weights, rule.vectors, fastest.k / np.linalg.norm(fastest.k), fastest)
    n, flux = rule.vectors, weights @ rule.vectors
    matrix = np.diag(n @ (along.k - flux)) - (1 - n @ n.T) * weights
    assert abs(np.linalg.eigvals(matrix).imag.max() / along.growth - 1) < 1e-8
    assert along.growth >= 0.999 * fastest.growth


def test_nothing_happens_without_a_crossing_or_with_nonsense():
    cells = np.tile(nsm1(), (4, 1, 1, 1))
    cells[0, :3] = 0  # isotropic
    cells[1, 3, 0, 0] = np.nan
    cells[2, 3, 1, 2] = -1e30
    cells[3, 0, 0, 1] = 2 * cells[3, 3, 0, 1]
    found = simulate(cells)
    assert np.array_equal(found.f4_final, cells, equal_nan=True)
    assert not found.growth_rate.any() and not found.f4_std.any()
    assert [FLAGS[flag] for flag in found.flag] == ["stable", *["unphysical"] * 3]
    assert found.counts == {"run": 0, "stable": 1, "too slow": 0, "unphysical": 3}


def test_no_rows():
    assert simulate(np.empty((0, 4, 2, 3))).f4_final.shape == (0, 4, 2, 3)


def test_a_cell_that_is_too_slow_is_returned_and_flagged():
    cell = np.zeros((1, 4, 2, 3))
    cell[0, 3, :, 0] = [1e33, 0.55e33]
    for flux in (0.2178, 0.2185, 0.22):  # crosses in a spot of the forward direction, and nowhere else
        cell[0, 2, 1, 0] = flux * cell[0, 3, 1, 0]
        found = simulate(cell, points=16, wavelengths=2, directions=5, protocol=Protocol(end=0.1))
        if FLAGS[found.flag[0]] == "too slow":
            break
    assert FLAGS[found.flag[0]] == "too slow" and np.array_equal(found.f4_final, cell)


def test_short_run_of_nsm1_conserves_turns_and_grows():
    cells = nsm1()
    protocol = Protocol(end=2.2, double=True)
    found = simulate(cells, 64, 4, 11, protocol=protocol)
    assert abs(found.growth_rate[0] / found.linear_rate[0] - 1) < 0.02
    assert abs(found.linear_rate[0] / 6.25e10 - 1) < 0.01
    change = (found.f4_final - cells)[0] / cells[0, 3].sum()
    assert abs(change.sum(-1)).max() < 1e-15
    assert abs(change[3, 0] - change[3, 1]).max() < 1e-6
    assert found.lepton_error[0] < 1e-5 and found.norm_error[0] < 1e-10
    assert np.array_equal(found.f4_final[..., 1], found.f4_final[..., 2])
    way = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    other = simulate(turned(cells, way), 64, 4, 11, protocol=protocol)
    assert abs(other.f4_final - turned(found.f4_final, way)).max() < 1e-3 * cells[0, 3].sum()


def test_distinct_heavies_mix_doubly_stochastically():
    cells = nsm1()
    cells[0, :, 0, 1] *= 1.2
    cells[0, :, 1, 2] *= 0.8
    plan = plan_box(Cell(cells[0], cells[0, 3].sum()), Protocol())
    assert len(plan.box.strength) == 2
    found = simulate(cells, 64, 4, 7, protocol=Protocol(end=2.2))
    change = (found.f4_final - cells)[0] / cells[0, 3].sum()
    assert abs(change.sum(-1)).max() < 1e-15
    assert abs(change[3, 0] - change[3, 1]).max() < 2e-6
    assert (np.linalg.norm(found.f4_final[:, :3], axis=1) <= found.f4_final[:, 3] * (1 + 1e-9)).all()
    rough = np.random.default_rng(0).dirichlet(np.ones(3), (4, 2, 9)).transpose(0, 1, 3, 2)
    matrices = mixing_matrices(rough)
    assert matrices.min() >= 0
    np.testing.assert_allclose([matrices.sum(1), matrices.sum(2)], 1)


def test_a_second_spinor_changes_nothing_where_heavies_are_equal():
    cells = nsm1()
    near = cells.copy()
    near[0, :, 0, 1] *= 1 + 1e-9
    protocol = Protocol(end=1.5, double=True)
    one, two = (simulate(f4, 48, 4, 7, protocol=protocol) for f4 in (cells, near))
    assert abs(one.f4_final[0, 3, 0, 0] - two.f4_final[0, 3, 0, 0]) < 2e-3 * cells[0, 3].sum()


def test_seeds_add_their_scatter():
    protocol = Protocol(end=1.5)
    both = simulate(nsm1(), 32, 2, 5, seed=3, seeds=2, protocol=protocol)
    each = [simulate(nsm1(), 32, 2, 5, seed=seed, protocol=protocol) for seed in (3, 4)]
    np.testing.assert_allclose(both.f4_final, (each[0].f4_final + each[1].f4_final) / 2)
    assert both.f4_std[0, 3, 0, 0] >= abs(each[0].f4_final - each[1].f4_final)[0, 3, 0, 0] / 2 * (1 - 1e-9)


def test_a_label_of_distinct_flavors_keeps_lepton_numbers_on_a_grid_that_is_too_coarse():
    """Its two spinors were no longer orthogonal, and what mended the third share cost lepton number."""
    shares = np.array([[0.494, 0.129, 0.367], [0.006, 0.002, 0.002]])
    angles = np.array([[0.5, 2.1, 0.9], [1.8, 0.2, 2.6]])
    cell = np.zeros((1, 4, 2, 3))
    cell[0, 3], cell[0, 0], cell[0, 2] = shares, 0.5 * shares * np.sin(angles), 0.5 * shares * np.cos(angles)
    found = simulate(1e33 * cell, points=32, wavelengths=4, directions=9)
    change = found.f4_final[0, 3] / 1e33 - shares
    assert found.counts["run"] == 1 and np.abs(change).max() > 1e-3
    assert np.abs(change[0] - change[1]).max() < 1e-5 * shares.sum()
