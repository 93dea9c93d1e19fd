"""Files of a user's own cells: what is wrong in them is refused, dropped or kept, and counted; never a traceback."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.flavor.data import FlavorData, load_data, make_data
from thesis_surrogates.flavor.generator import random_cells
from thesis_surrogates.flavor.streams import (
    FINAL,
    INITIAL,
    RATE,
    STABLE,
    FaultRules,
    grid_groups,
    read_asymptotic,
    read_stable,
    write_asymptotic,
    write_stable,
)
from thesis_surrogates.running.datasets import read_dataset
from thesis_surrogates.running.registry import get_system

DROP = FaultRules(beyond_cone="drop", negative="drop", label="drop")
KEEP = FaultRules(beyond_cone="keep", negative="keep", label="keep")


def cells(rows, seed=0):
    return random_cells(np.random.default_rng(seed), rows)


def stable_file(path, initial, labels=None, **more):
    write_stable(path, {INITIAL: initial, STABLE: np.ones(len(initial)) if labels is None else labels, **more})
    return path


def asymptotic_file(path, initial, final=None, **more):
    final = initial if final is None else final
    write_asymptotic(path, {INITIAL: initial, FINAL: final, RATE: np.full(len(initial), 1e9), **more})
    return path


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_number_of_flavors_may_have_axes(tmp_path, shape):
    path = asymptotic_file(tmp_path / "a.h5", cells(5))
    with h5py.File(path, "r+") as file:
        del file["nf"]
        file["nf"] = np.full(shape, 3)
    assert read_asymptotic(path)[1].kept == 5
    with h5py.File(path, "r+") as file:
        file["nf"][...] = 2
    with pytest.raises(DataError, match=r"nf is 2"):
        read_asymptotic(path)


def test_a_file_without_rows_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"s\.h5: .*no rows") as refused:
        read_stable(stable_file(tmp_path / "s.h5", np.zeros((0, 4, 2, 3)), np.zeros(0)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [2.0, 0.5, -1.0])
def test_a_label_is_zero_or_one(tmp_path, wrong):
    path = stable_file(tmp_path / "s.h5", cells(4), np.array([1.0, wrong, 0.0, 1.0]))
    with pytest.raises(DataError, match=rf"'stable' of 1 of 4 rows is neither 0 nor 1.*row 1: {wrong:g}.*label=drop"):
        read_stable(path)
    arrays, report = read_stable(path, DROP)
    assert len(arrays[STABLE]) == report.kept == 3 and report.dropped == {"stable out of range": 1}
    assert read_stable(path, KEEP)[1].kept == 4


def test_a_flux_longer_than_its_density_is_seen(tmp_path):
    initial = cells(6)
    initial[2, :3, 1, 0] = 50 * initial[2, 3, 1, 0] * np.array([1, 0, 0])
    initial[4, :3, 0, 1] = (1 + 9e-6) * initial[4, 3, 0, 1] * np.array([0, 0, 1])  # rounding of the caller
    path = stable_file(tmp_path / "s.h5", initial)
    with pytest.raises(DataError, match=r"beyond the light cone.*row 2.*beyond_cone=drop"):
        read_stable(path)
    arrays, report = read_stable(path, DROP)
    assert report.dropped == {f"{INITIAL} beyond the cone": 1} and report.unphysical_species == {INITIAL: 1}
    assert np.array_equal(arrays[INITIAL], initial[[0, 1, 3, 4, 5]])


def test_a_floor_of_the_transport_code_is_no_fault(tmp_path):
    initial = cells(3)
    initial[1, :, 0, 2] = [1e-9 * initial[1, 3].sum(), 0, 0, 0]  # no neutrinos, a flux far below the others
    arrays, report = read_stable(stable_file(tmp_path / "s.h5", initial))
    assert report.kept == 3 and report.unphysical_species == {INITIAL: 1}
    assert (arrays[INITIAL][1, :, 0, 2] == 0).all()


def test_a_density_far_below_zero_is_seen_and_rounding_is_emptied(tmp_path):
    initial = cells(5)
    initial[1, 3, 0, 2] = -initial[1, 3].sum()
    initial[3, :, 0, 2] = [0, 0, 0, -1e-8 * initial[3, 3].sum()]
    path = stable_file(tmp_path / "s.h5", initial)
    with pytest.raises(DataError, match=r"negative.*row 1.*negative=drop"):
        read_stable(path)
    arrays, report = read_stable(path, DROP)
    assert report.kept == 4 and report.emptied_species == 1 and (arrays[INITIAL][2, :, 0, 2] == 0).all()


def test_violated_laws_are_counted_and_refused_on_request(tmp_path):
    initial = cells(4)
    final = initial.copy()
    final[1, 3, 0, 0] += 0.1 * initial[1, 3].sum()
    path = asymptotic_file(tmp_path / "a.h5", initial, final)
    report = read_asymptotic(path)[1]
    assert report.kept == 4 and report.found == {"trace violated": 1, "lepton number violated": 1}
    assert report.flavor_sum_change == pytest.approx(0.1) and report.lepton_number_change == pytest.approx(0.1)
    with pytest.raises(DataError, match=r"trace.*of 1 of 4 rows"):
        read_asymptotic(path, FaultRules(trace="refuse"))
    assert read_asymptotic(path, FaultRules(lepton_number="drop"))[1].dropped == {"lepton number violated": 1}


def test_a_largest_flux_factor_leaves_rows_out(tmp_path):
    initial = cells(50)
    factor = (np.linalg.norm(initial[:, :3], axis=1) / initial[:, 3]).max((1, 2))
    report = read_stable(stable_file(tmp_path / "s.h5", initial), FaultRules(largest_flux_factor=0.5))[1]
    assert report.kept == (factor <= 0.5).sum() < 50 and list(report.dropped) == ["flux factor above 0.5"]


def user(tmp_path, **changes):
    names = {"path": str(tmp_path / "a.h5"), "stable_path": str(tmp_path / "s.h5")}
    return FlavorData(**names, **changes)


def test_groups_that_two_files_share_stay_together(tmp_path):
    group = np.repeat(np.arange(50), 4)
    asymptotic_file(tmp_path / "a.h5", cells(200), group=group)
    stable_file(tmp_path / "s.h5", cells(200, 1), group=group)
    splits = load_data(user(tmp_path), tmp_path).splits
    held = [set(part["group"].tolist()) for part in splits.values()]
    assert sum(map(len, held)) == 50, "a group is in one split, with the rows of both files"


@pytest.mark.parametrize("group", [np.full(5, np.nan), np.array(["left"] * 5, dtype="S")])
def test_groups_that_are_no_numbers_are_refused_by_name(tmp_path, group):
    with pytest.raises(DataError, match=r"s\.h5: 'group' holds .*number the groups"):
        read_stable(stable_file(tmp_path / "s.h5", cells(5), group=group))


def test_an_error_of_the_stable_file_names_no_other(tmp_path):
    asymptotic_file(tmp_path / "a.h5", cells(9))
    stable_file(tmp_path / "s.h5", cells(9), np.full(9, 0.5))
    with pytest.raises(DataError) as refused:
        read_dataset(get_system("flavor"), user(tmp_path), tmp_path / "a.h5")
    assert str(refused.value).startswith(f"{tmp_path / 's.h5'}: 'stable'") and "a.h5" not in str(refused.value)


@pytest.mark.filterwarnings("error")
def test_a_density_far_below_zero_is_refused_without_a_warning(tmp_path):
    wrong, final = cells(5), cells(5, 1)
    wrong[2, 3, 0, 0] = -2 * wrong[2, 3].sum()
    with pytest.raises(DataError, match=r"a negative density: .*row 2"):
        read_asymptotic(asymptotic_file(tmp_path / "a.h5", wrong, final))


# ---- files that this package has made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Generated datasets by seed; equal numbers of groups in both."""
    paths = {seed: tmp_path_factory.mktemp("made") / f"cells_{seed}.h5" for seed in (0, 1)}
    for seed, path in paths.items():
        make_data(FlavorData(cells=150, seed=seed, quadrature_order=17), path)
    return paths


def test_a_generated_file_serves_as_a_file_of_ones_own(made, tmp_path):
    data = load_data(FlavorData(path=str(made[0])), tmp_path)
    own = load_data(FlavorData(cells=150), made[0])
    assert sum(len(part["stable"]) for part in data.splits.values()) == 300
    assert data.meta["label_method"] == own.meta["label_method"]
    assert set(data.meta["reports"]) == {"asymptotic", "stable"}
    stable = stable_file(tmp_path / "s.h5", cells(70, 5))
    for names, rows in (
        ({"path": str(made[0]), "stable_path": str(made[1])}, 300),
        ({"path": str(made[0]), "stable_path": str(stable)}, 220),
        ({"path": (str(made[0]), str(made[1]))}, 600),
    ):
        data = load_data(FlavorData(**names), tmp_path)
        assert sum(len(part["stable"]) for part in data.splits.values()) == rows


def test_a_file_without_stable_cells_asks_for_them(made, tmp_path):
    asymptotic_file(tmp_path / "a.h5", cells(20))
    for path in (
        str(tmp_path / "a.h5"),
        {"train": str(made[0]), "validation": str(made[1]), "test": str(tmp_path / "a.h5")},
    ):
        with pytest.raises(DataError, match=r"data\.stable_path is missing"):
            load_data(FlavorData(path=path), tmp_path)


def test_generated_files_of_two_seeds_share_no_group_and_of_one_seed_all(made, tmp_path):
    def groups(*files):
        splits = load_data(FlavorData(path=tuple(map(str, files))), tmp_path).splits
        return len(set().union(*(part["group"].tolist() for part in splits.values())))

    alone = groups(made[0]), groups(made[1])
    assert groups(made[0], made[1]) == sum(alone), "the numbers are of a seed"
    make_data(FlavorData(cells=150, label_method="box3d", quadrature_order=17), tmp_path / "box3d.h5")
    assert groups(made[0], tmp_path / "box3d.h5") == alone[0], "the same cells with other labels stay together"


def named(path, names):
    with h5py.File(path, "r+") as file:
        file["directorynames"] = np.array(names, dtype=object)


def test_places_in_a_grid_are_one_group_over_files_and_mergers_are_apart(tmp_path):
    assert len(set(grid_groups(["a/rl2_i7_j31_k0", "a/rl2_i15_j16_k3", "b/rl2_i7_j31_k0"]))) == 2
    places = [f"sim{k % 2}/rl2_i{16 * (k // 8)}_j0_k{k % 4}" for k in range(120)]
    for name, write in (("a.h5", asymptotic_file), ("s.h5", stable_file)):
        named(write(tmp_path / name, cells(120)), places)
    splits = load_data(user(tmp_path), tmp_path).splits
    assert sum(len(set(part["group"].tolist())) for part in splits.values()) == 30


def test_names_that_are_no_place_are_split_by_stretches_and_said(tmp_path):
    for name, write in (("a.h5", asymptotic_file), ("s.h5", stable_file)):
        named(write(tmp_path / name, cells(200)), [f"run{k}" for k in range(200)])
    data = load_data(user(tmp_path), tmp_path)
    assert sum(len(set(part["group"].tolist())) for part in data.splits.values()) == 80, "forty stretches a file"
    assert "no place in a grid" in data.meta["reports"]["asymptotic"]["groups"]


def test_a_configuration_says_what_happens_to_faults(tmp_path):
    asymptotic_file(tmp_path / "a.h5", cells(100))
    stable_file(tmp_path / "s.h5", cells(100, 1), np.r_[0.5, np.ones(99)])
    with pytest.raises(DataError, match=r"data\.faults\.label=drop"):
        load_data(user(tmp_path), tmp_path)
    data = load_data(user(tmp_path, faults={"label": "drop"}), tmp_path)
    assert data.meta["reports"]["stable"]["dropped"] == {"stable out of range": 1}
    assert "faults" not in FlavorData().model_dump(), "a configuration without the key keeps its hash"
