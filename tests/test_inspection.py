"""`surrogates inspect FILE`: what is in a file of any kind, and one line where a file is wrong."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import surrogates

from thesis_surrogates.core.errors import SurrogatesError
from thesis_surrogates.core.hdf5 import write_hdf5
from thesis_surrogates.running.datasets import choose_dataset, ensure_dataset
from thesis_surrogates.running.exported_files import export_surrogate
from thesis_surrogates.running.inspection import inspect_file
from thesis_surrogates.running.registry import SYSTEMS, get_system, load_suite
from thesis_surrogates.tracks.field import GridField, UniformField

AXES = (np.arange(-100.0, 101.0, 100.0), np.arange(-50.0, 51.0, 50.0), np.arange(0.0, 401.0, 100.0))


@pytest.fixture
def dataset(system_name, data_dir):
    """The dataset of the first run of the smoke suite."""
    return ensure_dataset(get_system(system_name), load_suite(f"{system_name}/smoke")[0].data, data_dir)


def array_with_limits(system_name: str) -> str:
    """The first array that a dataset needs and of which a column has a range."""
    kind = get_system(system_name).files[0]
    return next(n for n in kind.needs if any((c.lowest, c.highest) != (None, None) for c in kind.columns[n]))


def write_tracks_table(path: Path, rows: int) -> Path:
    state = np.random.default_rng(0).normal(size=(rows, 4))
    ones = np.ones(rows)
    write_hdf5(
        path, {"state": state, "target": state, "q_over_p": ones, "z_start": ones, "dz": ones, "group": np.arange(rows)}
    )
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SurrogatesError) as caught:
        inspect_file(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message, message
    return message


def test_a_dataset_of_each_system_is_known_and_has_no_fault(system_name, dataset):
    found = inspect_file(dataset)
    assert found.read_by == f"data.path of {system_name}" and found.kind.endswith(f"of {system_name}")
    assert found.size_bytes == dataset.stat().st_size and found.notes == ()
    data = get_system(system_name).load_data(load_suite(f"{system_name}/smoke")[0].data, dataset)
    assert found.fingerprint in data.fingerprint
    table = found.table.set_index("column")
    assert (table["not finite"] == 0).all() and (table["unphysical"] == 0).all() and (table["values"] > 0).all()
    assert (table["min"] <= table["median"]).all() and (table["median"] <= table["max"]).all()
    assert (table.unit != "").all(), "a column of a known kind has a unit"


def test_planted_values_are_counted_where_they_are(system_name, dataset, tmp_path):
    """The first number of a row becomes so large that the row is unphysical, and that of another row is no number."""
    name, path = array_with_limits(system_name), tmp_path / dataset.name
    path.write_bytes(dataset.read_bytes())
    with h5py.File(path, "r+") as file:
        inner = (0,) * (file[name].ndim - 1)
        file[name][(0, *inner)], file[name][(1, *inner)] = 1e37, np.nan
    found = inspect_file(path)
    for fault in ("not finite", "unphysical"):
        hits = found.table[found.table[fault] > 0]
        assert len(hits) and hits.column.str.startswith(name + " ").all(), f"{fault}: {hits.column.tolist()}"
        assert hits[fault].max() == 1, "each planted value is counted once in a column"
        assert any(fault in note for note in found.notes)


def test_units_are_those_of_the_symbols(system_name):
    """A unit of a column stands among the symbols, or is that of a plain count, an angle, a time or a momentum."""
    system = get_system(system_name)
    known = {unit for symbol in system.symbols for unit in symbol.unit.split(", ")}
    known |= {"1", "id", "rad", "s", "GeV", "1/MeV", "km^2/s^2", "see energy_unit"}
    used = {column.unit for kind in system.files for columns in kind.columns.values() for column in columns}
    assert system.files and used <= known, used - known


def test_keys_that_read_files_are_there(system_name):
    system = get_system(system_name)
    keys = {kind.key for kind in system.files}
    assert "data.path" in keys
    assert all(key.split(".")[1] in system.data_config.model_fields for key in keys)


def test_a_cut_file_is_one_line(system_name, dataset, tmp_path):
    cut = tmp_path / dataset.name
    content = dataset.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    assert "not a readable file of HDF5" in refusal(cut)


def test_a_changed_byte_in_the_rows_is_found(tmp_path):
    path = write_tracks_table(tmp_path / "tracks.h5", 2000)
    with h5py.File(path) as file:
        place = file["target"].id.get_chunk_info(0).byte_offset + 100
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    assert "not a readable file of HDF5" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing.h5", b"", "is empty"),
        ("foreign.h5", b"<html>no data</html>", "not a readable file of HDF5"),
        ("foreign.npz", b"PK\x03\x04 cut", "not a readable file of NumPy archive"),
        ("picture.dat", b"\x89PNG\r\n\x1a\n\0\0", "begins with b'\\x89PNG"),
        ("poem.txt", b"shall I compare thee\nto a summer day", "is no number"),
        ("title.txt", b"only words", "no row of numbers"),
        ("foreign.bin", b"not a field map at all", "does not begin with FIELDMAP"),
        ("model.onnx", b"no graph", "not a readable file of ONNX"),
        ("model.ts", b"no archive", "not a readable file of TorchScript"),
    ],
)
def test_a_foreign_file_is_one_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert words in refusal(path)


def test_what_is_not_there_is_one_line(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere.h5")
    assert "not a run directory" in refusal(tmp_path)


def test_objects_of_python_are_counted_and_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    path = tmp_path / "objects.npz"
    np.savez(path, T=np.array([Trap(), Trap()], dtype=object), x=np.arange(3.0))
    found = inspect_file(path)
    assert "Python objects, never read" in found.table.unit[0] and not (tmp_path / "opened").exists()
    np.save(tmp_path / "objects.npy", np.array([Trap()], dtype=object))
    assert "not a readable file" in refusal(tmp_path / "objects.npy") and not (tmp_path / "opened").exists()


def test_memory_is_bounded_and_pieces_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("thesis_surrogates.running.inspection.file_fingerprint", str)  # has pieces of 4 MiB of its own
    path = write_tracks_table(tmp_path / "tracks.h5", 60_000)
    assert path.stat().st_size > 5_000_000
    whole = inspect_file(path).table
    tracemalloc.start()
    small = inspect_file(path, piece_bytes=50_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000, f"{peak:,} B for a file of {path.stat().st_size:,} B"
    exact = ["column", "unit", "values", "min", "max", "not finite", "unphysical"]
    assert small.table[exact].equals(whole[exact])
    spread = whole["max"] - whole["min"]
    assert ((small.table["median"] - whole["median"]).abs() <= 0.02 * spread).all()


@pytest.mark.parametrize("name", ["tracks.h5", "tracks.npz", "tracks.npy", "tracks.csv", "tracks.txt"])
def test_pieces_of_all_formats_give_the_same_numbers(tmp_path, name):
    values = np.random.default_rng(1).normal(size=(301, 3))
    values[7, 2] = np.nan
    path = tmp_path / name
    write = {
        ".h5": lambda: write_hdf5(path, {"a": values}),
        ".npz": lambda: np.savez_compressed(path, a=values),
        ".npy": lambda: np.save(path, values),
        ".csv": lambda: np.savetxt(path, values, delimiter=", ", header="x,y,z", comments=""),
        ".txt": lambda: np.savetxt(path, values, header="three columns"),
    }
    write[path.suffix]()
    table = inspect_file(path, piece_bytes=500).table
    assert table["values"].tolist() == [301] * 3 and table["not finite"].tolist() == [0, 0, 1]
    assert np.allclose(table["min"], np.nanmin(values, 0)) and np.allclose(table["median"], np.nanmedian(values, 0))
    assert path.suffix != ".csv" or table.column.tolist() == ["table x", "table y", "table z"]


def test_an_archive_that_is_cut_in_an_array_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((400, 6)), Y=np.zeros((400, 4)))
    content = path.read_bytes()
    path.write_bytes(content[:300] + b"\x01" + content[301:])  # the checksum of the member fails
    assert "not a readable file of NumPy archive" in refusal(path)


def test_the_exchange_form_of_tracks_is_known(tmp_path):
    path = tmp_path / "tracks.npz"
    x = np.ones((10, 6))
    x[:, 4] = 1e-4
    x[3, 4] = 0.0  # p = 0 has no track
    np.savez(path, X=x, Y=np.ones((10, 4)), Z=np.ones((10, 2)))
    found = inspect_file(path)
    table = found.table.set_index("column")
    assert found.read_by == "data.path of tracks" and table.unit["X q/p"] == "1/MeV"
    assert table["max"]["X p"] == pytest.approx(10.0) and table["not finite"]["X p"] == 1


@pytest.mark.parametrize("name", ["map.npz", "map.bin", "map.txt"])
def test_field_maps_are_known_in_all_forms(tmp_path, name):
    path = tmp_path / name
    GridField.sample(UniformField(), AXES).write(path)
    found = inspect_file(path)
    assert found.read_by == "data.field_map of tracks" and "field map" in found.kind and found.notes == ()
    table = found.table
    by = table[table.column.str.endswith("By")].iloc[0]
    assert by.unit == "T" and by["values"] == 45 and by["min"] == pytest.approx(by["max"])
    assert table[table.column.str.endswith(" x") | (table.column == "x x")].iloc[0].unit == "mm"


def test_a_text_map_with_faults_says_what_they_are(tmp_path):
    path = tmp_path / "map.txt"
    GridField.sample(UniformField(), AXES).write(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    assert any("44 rows, but a 3x3x5 grid has 45" in note for note in inspect_file(path).notes)
    path.write_text("\n".join([*lines[:-1], lines[-1].rsplit(" ", 1)[0] + " 900"]))
    found = inspect_file(path)
    assert found.table["unphysical"].sum() == 1 and "1 values are unphysical" in found.notes
    path.write_text("\n".join([*lines[:-1], lines[-1].rsplit(" ", 1)[0] + " nan"]))
    assert inspect_file(path).table["not finite"].sum() == 1


def test_padding_of_orbits_is_no_fault(tmp_path):
    path = tmp_path / "orbits.h5"
    system = get_system("orbits")
    config = choose_dataset(system, (), {"data": {"train_set": "simple_TBP_planar_3_train", "points": 8}})
    system.make_data(config, path, 1)
    with h5py.File(path, "r+") as file:
        file["train_state"][0, 5:], file["train_mask"][0, 5:] = np.nan, False
    assert inspect_file(path).notes == ()
    with h5py.File(path, "r+") as file:
        file["train_mask"][0, 5:] = True
    assert inspect_file(path).table["not finite"].sum() > 0


def test_a_file_that_is_nearly_of_a_kind_says_what_it_lacks(tmp_path):
    path = tmp_path / "tracks.h5"
    write_hdf5(path, {"state": np.zeros((3, 5)), "target": np.zeros((3, 4)), "q_over_p": np.ones(3)})
    found = inspect_file(path)
    assert found.read_by == "no key"
    assert "not a file of tracks" in found.notes[0] and "state has shape [3, 5]" in found.notes[0]


def test_a_system_that_names_no_files_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "tracks", replace(get_system("tracks"), files=()))
    found = inspect_file(write_tracks_table(tmp_path / "tracks.h5", 5))
    assert found.read_by == "no key" and found.table["values"].sum() > 0


def test_groups_and_attributes_are_shown(tmp_path):
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        file["first/second/x"] = np.arange(3)
        file["words"] = ["a", "b"]
        file.attrs["seed"] = 7
        file["first"].attrs["unit"] = "mm"
    found = inspect_file(path)
    assert found.groups == ("first/second",) and found.attributes == {"seed": 7, "first/unit": "mm"}
    assert "(text)" in found.table.unit.tolist() and "seed" in found._repr_html_()


def test_a_run_directory_and_its_export(smoke_runs, tmp_path):
    run = smoke_runs("orbits")
    found = inspect_file(run.path)
    assert found.kind == "run directory" and found.fingerprint == f"configuration {run.config_hash}"
    assert found.attributes["status"] == "done" and found.attributes["system"] == "orbits"
    assert "train loss" in found.table.column.tolist() and "report" in found.read_by
    target = tmp_path / "model.onnx"
    export_surrogate(run.path, "onnx", target)
    export = inspect_file(target)
    report = json.loads(target.with_name("model.onnx.json").read_text())
    assert export.fingerprint == report["sha256"] and export.notes == ()
    assert {f"input {name}" for name in report["inputs"]} <= set(export.table.column)
    assert export.table.set_index("column")["values"]["constants"] > 0
    content = target.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    assert "not a readable file of ONNX" in refusal(target)


def test_an_export_that_was_changed_is_noticed(tmp_path):
    path = tmp_path / "model.hpp"
    path.write_text("#pragma once\n")
    assert "no model.hpp.json beside it" in inspect_file(path).notes[0]
    report = {"sha256": "0" * 64, "inputs": {"x": "float32[batch, 2]"}, "outputs": ["y"]}
    path.with_name("model.hpp.json").write_text(json.dumps(report))
    found = inspect_file(path)
    assert "was changed or cut" in found.notes[0] and found.table.column.tolist() == ["input x", "output y"]


def test_the_command_prints_a_table_and_one_line_for_what_is_wrong(tmp_path):
    good = surrogates("inspect", write_tracks_table(tmp_path / "tracks.h5", 5), cwd=tmp_path)
    assert good.returncode == 0 and "data.path of tracks" in good.stdout and "q_over_p q/p" in good.stdout
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    bad = surrogates("inspect", "bad.h5", cwd=tmp_path)
    assert bad.returncode == 2 and bad.stderr.startswith("error: bad.h5: ") and bad.stderr.count("\n") == 1
