"""Databases from folders of runs and from snapshots: what is a label becomes one, what is none is counted."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.flavor.simulations import (
    DISCRIMINANT,
    MAGNITUDE,
    NAMES,
    find_saturation,
    fit_growth_rate,
    read_runs,
    read_snapshot,
)
from thesis_surrogates.flavor.streams import (
    FINAL,
    INITIAL,
    RATE,
    STABLE,
    FaultRules,
    read_asymptotic,
    read_stable,
    write_asymptotic,
    write_stable,
)

TIME = np.linspace(0.0, 4e-9, 401)
GROWTH = 1.5e10


def run_folder(folder, last="AMReX (x) finalized", change=None, until=None, lose=2 / 3):
    """A run that grows to 8e-10 s and settles; `change(series, done)` spoils it."""
    folder.mkdir(parents=True)
    (folder / "output.txt").write_text(f"step 1\n{last}\n\n")
    time = TIME[:until]
    done = np.exp(GROWTH * np.minimum(time - 8e-10, 0))
    series = {name: 0 * time for part in NAMES for sector in part for name in sector}
    series["time(s)"], series[MAGNITUDE] = time, 1e33 * done * (1 - 0.1 * (time > 8e-10))
    for bar, density in (("", 1e33), ("bar", 1.5e33)):
        series[f"N00{bar}(1|ccm)"] = density - lose * 1e33 * done
        series[f"N11{bar}(1|ccm)"] = series[f"N22{bar}(1|ccm)"] = 0.5 * lose * 1e33 * done
        series[f"Fz00{bar}(1|ccm)"] = 0 * time + density / 5
    if change is not None:
        change(series, done)
    with h5py.File(folder / "reduced0D.h5", "w") as file:
        for name, array in series.items():
            file[name] = array
    return folder


def add(name, amount):
    def change(series, done):
        series[name] = series[name] + amount * done

    return change


def spoil(series, done):
    series["Fx11(1|ccm)"][7] = np.nan


def scatter(series, done):
    wave = 6e32 * done * np.sin(3e10 * series["time(s)"])
    for bar in ("", "bar"):
        series[f"N00{bar}(1|ccm)"] = series[f"N00{bar}(1|ccm)"] + wave
        series[f"N11{bar}(1|ccm)"] = series[f"N11{bar}(1|ccm)"] - wave


def test_a_folder_of_runs_becomes_a_database(tmp_path):
    folders = [
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k0"),
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k1", last="killed"),
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k2", until=200),
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k3", change=scatter),
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k4", change=add("N11(1|ccm)", 1e30)),
        run_folder(tmp_path / "merger" / "rl2_i7_j31_k5", change=spoil),
        tmp_path / "merger" / "empty",
    ]
    arrays, report = read_runs(folders)
    assert report.rows == 7 and report.kept == 1
    assert report.dropped == {
        "not finished": 2,
        "too short": 1,
        "final state scatters": 1,
        "trace violated": 1,
        "a value that is not finite": 1,
    }
    write_asymptotic(tmp_path / "runs.h5", arrays)
    read, again = read_asymptotic(tmp_path / "runs.h5")
    assert again.groups == "directorynames" and again.kept == 1
    assert np.allclose(read[FINAL][0, 3, :, 0], [1e33 / 3, 1e33 * (1.5 - 2 / 3)])
    assert np.allclose(read[INITIAL][0, 2, :, 0], [2e32, 3e32])
    assert abs(read[RATE][0] / GROWTH - 1) < 1e-6


def test_lepton_number_counts_apart_from_the_trace(tmp_path):
    def move(series, done):
        add("N11(1|ccm)", 1e30)(series, done)
        add("N22(1|ccm)", -1e30)(series, done)

    folders = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", change=move)]
    assert read_runs(folders)[1].dropped == {"lepton number violated": 1}


def test_no_label_at_all_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(DataError, match="no run is a label among 1 folders.*not finished"):
        read_runs([run_folder(tmp_path / "a", last="killed")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "output.txt").write_text("finalized")
    with pytest.raises(DataError, match="reduced0D.h5: no such dataset"):
        read_runs([tmp_path / "b"])


def test_saturation_passes_over_ripples_before_the_rise():
    magnitude = np.array([1.0, 1.5, 1.2, 30.0, 2e3, 1e3, 5e3, 4e3])
    assert find_saturation(magnitude) == 4
    assert find_saturation(magnitude[:4]) == 3
    assert np.isnan(fit_growth_rate(np.arange(3.0), np.array([1.0, 1.0, 1.0])))


def snapshot(path, **change):
    shape = (20, 4, 3)
    grid = {"n_e": np.full(shape, 1e33), "n_a": np.full(shape, 1.1e33), "n_x": np.full(shape, 2e33)}
    grid |= {f"f{name}": np.stack([0.1 * array] * 3) for name, array in grid.items()}
    grid = {f"{name}(1|ccm)": array for name, array in grid.items()} | {DISCRIMINANT: np.full(shape, -1.0)}
    grid[DISCRIMINANT][:5] = 1.0
    for name, (place, value) in change.items():
        grid[DISCRIMINANT if name == "label" else f"{name}(1|ccm)"][place] = value
    with h5py.File(path, "w") as file:
        for name, array in grid.items():
            file[name] = array
    return path


def test_a_snapshot_becomes_labelled_cells_in_groups(tmp_path):
    path = snapshot(tmp_path / "s.h5", n_e=((0, 0, 0), np.nan), label=((9, 1, 1), np.nan))
    arrays, report = read_snapshot(path)
    assert report.rows == 240 and report.kept == 238
    assert report.dropped == {f"{INITIAL}": 1, STABLE: 1}
    assert (arrays[STABLE] == 0).sum() == 59
    first = arrays[INITIAL][0]
    assert np.allclose(first[3], [[1e33, 5e32, 5e32], [1.1e33, 5e32, 5e32]])
    assert np.allclose(first[:3], 0.1 * first[3])
    assert len(np.unique(arrays["group"])) == 2
    write_stable(tmp_path / "stable.h5", arrays)
    read, again = read_stable(tmp_path / "stable.h5")
    assert np.array_equal(read[INITIAL], arrays[INITIAL]) and again.groups == "the dataset `group`"


def test_cells_of_a_snapshot_obey_the_rules(tmp_path):
    path = snapshot(tmp_path / "s.h5", fn_a=((2, 3, 1, 1), 9e33))
    with pytest.raises(DataError, match="beyond the cone of 1 of 240 rows"):
        read_snapshot(path)
    assert read_snapshot(path, FaultRules(beyond_cone="drop"))[1].kept == 239
    with pytest.raises(DataError, match="no dataset"):
        with h5py.File(path, "a") as file:
            del file["n_x(1|ccm)"]
        read_snapshot(path)


def test_shapes_that_do_not_agree_are_named(tmp_path):
    path = snapshot(tmp_path / "s.h5")
    with h5py.File(path, "a") as file:
        del file["fn_e(1|ccm)"]
        file["fn_e(1|ccm)"] = np.zeros((20, 4, 3, 3))
    with pytest.raises(DataError, match=r"'fn_e\(1\|ccm\)' has shape \(20, 4, 3, 3\)"):
        read_snapshot(path)
