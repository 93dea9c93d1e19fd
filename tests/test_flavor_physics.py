"""Guards of the flavor system's physics: limits, labels against sampling, conservation of schemes, hygiene of files."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.flavor.asymptotics import SCHEMES, final_state, growth_rate, lebedev, product_rule
from thesis_surrogates.flavor.crossing import discriminant, unstable
from thesis_surrogates.flavor.data import FlavorData, load_data, make_data
from thesis_surrogates.flavor.distributions import angular_density, inverse_langevin, langevin, species_last
from thesis_surrogates.flavor.generator import mixture, one_flavor_cells, zero_flux_cells
from thesis_surrogates.flavor.streams import FINAL, INITIAL, RATE, STABLE, read_stream, write_streams

RULE = lebedev(17)


def random_rows(count, seed, largest_flux=0.85):
    """N uniform in (0.01, 1) x 1e33, flux factor uniform, isotropic."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 1, (count, 1, 2, 3)) * 1e33
    way = rng.normal(size=(count, 3, 2, 3))
    way *= rng.uniform(0, largest_flux, (count, 1, 2, 3)) / np.linalg.norm(way, axis=1, keepdims=True)
    return np.concatenate([way * density, density], axis=1)


@settings(deadline=None, max_examples=200)
@given(st.floats(0, 1 - 1e-6))
def test_the_closure_is_inverted(flux_factor):
    assert abs(langevin(inverse_langevin(flux_factor)) - flux_factor) < 1e-12


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 0.9), st.floats(1e-3, 1e34), st.integers(0, 100))
def test_the_moments_come_back(flux_factor, density, seed):
    way = np.random.default_rng(seed).normal(size=3)
    four = np.r_[flux_factor * density * way / np.linalg.norm(way), density]
    rule = lebedev(41)
    g = angular_density(four, rule.directions)
    back = np.r_[(g * rule.weights) @ rule.directions, g @ rule.weights]
    np.testing.assert_allclose(back, four, atol=1e-6 * density)


def test_a_broken_or_empty_species_stays_in_its_row():
    four = np.array([[0, 0, 0, 0.0], [np.nan, 0, 0, 1], [0, 0, 1.0, 1.0], [0, 0, 0.3, 1]])
    g = angular_density(four, RULE.directions)
    assert (g[0] == 0).all() and np.isnan(g[1]).all() and np.isfinite(g[2:]).all()


def test_two_species_labels_agree_with_dense_sampling():
    cells = random_rows(1200, 0, 0.9)
    cells[:, :, 0, 1:] = cells[:, :, 1, 1:]
    cells[:, :, :, 2] = cells[:, :, :, 1]
    closed = unstable(cells, RULE.directions)
    fine = product_rule(60, 120)
    species = species_last(cells)
    g = angular_density(species[:, 0, 0], fine.directions) - angular_density(species[:, 1, 0], fine.directions)
    assert np.mean(closed == ((g.max(1) > 0) & (g.min(1) < 0))) >= 0.999


@pytest.mark.parametrize(
    "first, second, crossing",
    [
        ((0, 0, 0, 1), (0, 0, 0, 2), False),
        ((0.5, 0, 0, 1), (-0.5, 0, 0, 1), True),
        ((0.5, 0, 0, 1), (0, 0, 0, 0), False),
        ((0, 0, 0, 0), (0, 0, 0, 0), False),
    ],
)
def test_known_crossings(first, second, crossing):
    assert (discriminant(np.array(first, dtype=float), np.array(second, dtype=float)) > 0) == crossing


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("make", [zero_flux_cells, one_flavor_cells])
def test_trivial_cells_are_left_alone_exactly(scheme, make):
    cells = make(np.random.default_rng(0), 300)
    assert not unstable(cells, RULE.directions).any()
    assert np.array_equal(final_state(cells, RULE, scheme), cells) and (growth_rate(cells, RULE) == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_conserve_and_scale(scheme):
    cells = random_rows(1000, 1)
    total = cells[:, 3].sum((1, 2))[:, None, None, None]
    final = final_state(cells, RULE, scheme)
    change = (final - cells) / total
    assert abs(change.sum(-1)).max() < 1e-13 and abs(change[:, 3, 0] - change[:, 3, 1]).max() < 1e-8
    np.testing.assert_allclose(final_state(1e-30 * cells, RULE, scheme) / total / 1e-30, final / total, atol=1e-9)
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    turned = cells.copy()
    turned[:, :3] = np.einsum("ij,bjsf->bisf", turn, cells[:, :3])
    back = final_state(turned, RULE, scheme)
    back[:, :3] = np.einsum("ji,bjsf->bisf", turn, back[:, :3])
    assert (abs(back - final) / total).max() < 1e-9
    swapped = final_state(cells[..., [0, 2, 1]], RULE, scheme)[..., [0, 2, 1]]
    assert (abs(swapped - final) / total).max() < 1e-9


def test_fiducial_cell_ends_in_thirds():
    cell = np.zeros((1, 4, 2, 3))
    cell[0, 3, :, 0], cell[0, 2, :, 0] = 1e33, [1e33 / 3, -1e33 / 3]
    np.testing.assert_allclose(final_state(cell, RULE, "box3d")[0, 3] / 1e33, 1 / 3, atol=1e-6)


def test_the_generator_is_a_function_of_seed_and_block():
    first, again, other = mixture(3, 1), mixture(3, 1), mixture(4, 1)
    assert np.array_equal(first.f4, again.f4) and not np.array_equal(first.f4, other.f4)
    flux_factor = np.linalg.norm(first.f4[:, :3], axis=1) / np.maximum(first.f4[:, 3], 1e-300)
    assert flux_factor.max() <= 0.95 + 1e-9 and (first.f4[:, 3] >= 0).all()


def test_generated_files_are_equal_bytes_and_documented(tmp_path):
    config = FlavorData(cells=200, quadrature_order=17)
    for name in ("a", "b"):
        make_data(config, tmp_path / f"{name}.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["asymptotic/nf"][()] == 3 and file["asymptotic"][FINAL].shape == (200, 4, 2, 3)
        assert file.attrs["label_method"].startswith("power-1/2") and file["stable"][STABLE].shape == (200,)


@pytest.mark.parametrize("split", ["group", "contiguous"])
def test_no_group_is_in_two_splits(tmp_path, split):
    config = FlavorData(cells=800, quadrature_order=17, split=split)
    make_data(config, tmp_path / "a.h5")
    splits = load_data(config, tmp_path / "a.h5").splits
    groups = [set(part["group"].tolist()) for part in splits.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_augmentation_multiplies_training_only(tmp_path):
    config = FlavorData(cells=200, quadrature_order=17)
    make_data(config, tmp_path / "a.h5")
    plain = load_data(config, tmp_path / "a.h5").splits
    many = load_data(config.model_copy(update={"augment_permutations": True}), tmp_path / "a.h5").splits
    assert len(many["train"]["stable"]) == 12 * len(plain["train"]["stable"])
    assert len(many["test"]["stable"]) == len(plain["test"]["stable"])
    assert many["train"]["growthrate"][:12].unique().numel() == 1


def toy_file(path, rows=20):
    cells = random_rows(rows, 0)
    write_streams(path, {"": {INITIAL: cells, FINAL: cells, RATE: np.full(rows, 1e9)}})
    return cells


def test_one_row_and_extra_axes_survive(tmp_path):
    cells = random_rows(1, 0)[:, :, None]
    write_streams(tmp_path / "one.h5", {"": {INITIAL: cells, STABLE: np.ones((1, 1))}})
    arrays, report = read_stream(tmp_path / "one.h5", "stable")
    assert arrays[INITIAL].shape == (1, 4, 2, 3) and report.kept == 1


def test_bad_files_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"missing\.h5"):
        read_stream(tmp_path / "missing.h5", "stable")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"text\.h5"):
        read_stream(tmp_path / "text.h5", "asymptotic")
    toy_file(tmp_path / "flavors.h5")
    with h5py.File(tmp_path / "flavors.h5", "r+") as file:
        file["nf"][()] = 2
    with pytest.raises(DataError, match="nf is 2"):
        read_stream(tmp_path / "flavors.h5", "asymptotic")
    write_streams(tmp_path / "nan.h5", {"": {INITIAL: np.full((3, 4, 2, 3), np.nan), STABLE: np.ones(3)}})
    with pytest.raises(DataError, match="no usable row"):
        read_stream(tmp_path / "nan.h5", "stable")
    write_streams(tmp_path / "short.h5", {"": {INITIAL: random_rows(3, 0), STABLE: np.ones(2)}})
    with pytest.raises(DataError, match="different numbers of rows"):
        read_stream(tmp_path / "short.h5", "stable")


def test_plot_arrays_are_never_read(tmp_path, monkeypatch):
    toy_file(tmp_path / "plots.h5")
    with h5py.File(tmp_path / "plots.h5", "r+") as file:
        file["xplot"] = np.zeros((20, 50))
    seen, original = [], h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, *a, **k: seen.append(self.name) or original(self, *a, **k)
    )
    read_stream(tmp_path / "plots.h5", "asymptotic")
    assert "/xplot" not in seen and f"/{INITIAL}" in seen
