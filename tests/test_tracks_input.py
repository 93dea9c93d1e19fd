"""Bad input of the tracks system: every refusal names the value and the remedy, and nothing is half-written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thesis_surrogates.core.config import check
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.hdf5 import read_hdf5, write_hdf5
from thesis_surrogates.tracks.data import COLUMNS, OPTIONAL, PRESETS, TracksData, generate
from thesis_surrogates.tracks.exchange.merge_split import merge, split_by_momentum
from thesis_surrogates.tracks.exchange.npz import npz_metadata, read_npz, to_exchange, write_npz
from thesis_surrogates.tracks.field import DipoleField, FieldError, GridField, LHCbLikeField, UniformField, make_field
from thesis_surrogates.tracks.field_map import write_npz_map
from thesis_surrogates.tracks.files import load_data
from thesis_surrogates.tracks.production import make_data
from thesis_surrogates.tracks.propagation import propagate, propagate_with_jacobian

GOOD = np.array([[1.0, 2.0, 0.1, -0.1], [3.0, 4.0, 0.0, 0.0]])


@pytest.mark.parametrize("call", [propagate, propagate_with_jacobian])
@pytest.mark.parametrize(
    "change,words",
    [
        ({"state": np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]])}, ["y is nan", "row 1"]),
        ({"state": np.zeros((2, 5))}, ["(2, 5)", "[N, 4]"]),
        ({"state": np.zeros(4)}, ["(4,)", "[N, 4]"]),
        ({"q_over_p": np.array([0.1, np.inf])}, ["inf", "row 1", "p = 0"]),
        ({"q_over_p": np.array([np.nan, 0.1])}, ["nan", "row 0"]),
        ({"q_over_p": np.ones(3)}, ["(3,)", "2"]),
        ({"z_end": np.nan}, ["z_end", "nan"]),
        ({"step": 0.0}, ["step is 0", "positive"]),
        ({"step": -5.0}, ["step is -5", "positive"]),
        ({"tolerance": 0.0}, ["tolerance is 0"]),
        ({"method": "euler"}, ["euler", "rk4"]),
        ({"field": "lhcb"}, ["lhcb", "Field"]),
    ],
)
def test_propagation_refuses(call, change, words):
    arguments = {"state": GOOD, "q_over_p": 0.1, "z_start": 0.0, "z_end": 1000.0, "field": DipoleField()} | change
    with pytest.raises(ValueError) as error:
        call(**arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_empty_batches_are_fine():
    for field in (DipoleField(), lambda x, y, z: (0 * x, 0 * x, 0 * x)):
        assert propagate(np.zeros((0, 4)), np.zeros(0), 0.0, 1.0, field).shape == (0, 4)
    assert propagate_with_jacobian(np.zeros((0, 4)), np.zeros(0), 0.0, 1.0, DipoleField())[1].shape == (0, 5, 5)


def test_polarity_and_names():
    for make in (lambda: UniformField(1.0, polarity=0), lambda: LHCbLikeField(polarity=2), lambda: make_field("toy")):
        with pytest.raises(FieldError):
            make()
    point = (10.0, 20.0, 5000.0)
    for name in ("uniform", "gaussian", "dipole", "lhcb_like"):
        assert all(
            np.array_equal(a, -b) for a, b in zip(make_field(name)(*point), make_field(name, -1)(*point), strict=True)
        )


@pytest.fixture
def map_file(tmp_path):
    axes = (np.array([-10.0, 0, 10]), np.array([-10.0, 0, 10, 20]), np.array([0.0, 50, 100]))
    GridField.sample(UniformField(-1.0), axes).write(tmp_path / "map.txt")
    return tmp_path / "map.txt"


def test_a_map_in_twodip_order(map_file):
    table = np.loadtxt(map_file)
    assert table.shape == (36, 6)
    assert (
        table[:5, 0].tolist() == [-10, -10, -10, -10, 0]
        and table[:5, 1].tolist() == [-10, 0, 10, 20, -10]
        and (table[:12, 2] == 0).all()
    )
    again = GridField.read(map_file, polarity=-1)
    assert again(np.array([5.0]), 5.0, 60.0)[1] == 1.0 and again(50.0, 0.0, 0.0)[1] == 0.0


@pytest.mark.parametrize(
    "damage,word",
    [
        (lambda lines: lines[:-1], "nodes are missing"),
        (lambda lines: [" ".join(line.split()[:5]) for line in lines], "six columns"),
        (lambda lines: [*lines[:-1], lines[0]], "twice"),
        (lambda lines: [*lines[:-1], lines[-1].replace("-1.000000", "nan")], "not finite"),
        (lambda lines: [line.replace("100.000000", "90.000000") for line in lines], "steps"),
        (lambda lines: ["this is no map"], "no field map"),
        (lambda lines: [], "no field map"),
    ],
)
def test_a_wrong_grid_is_refused(map_file, damage, word):
    map_file.write_text("\n".join(damage(map_file.read_text().splitlines())) + "\n")
    with pytest.raises(FieldError, match=word):
        GridField.read(map_file)


def test_grid_paths_agree_in_single_precision():
    grid = GridField.sample(DipoleField())
    rng = np.random.default_rng(0)
    points = rng.uniform([-4500, -4500, -1000], [4500, 4500, 15000], size=(5000, 3)).astype(np.float32)
    numbers = np.stack(grid(*points.T.astype(np.float64)))
    tensors = torch.stack(grid(*torch.from_numpy(points.T.copy()))).numpy()
    core = (np.abs(points[:, :2]) < 2500).all(1)
    assert np.abs(numbers - tensors)[:, core].max() < 1e-6
    outside = (np.abs(points[:, :2]) > 4000).any(1) | (points[:, 2] > 14000) | (points[:, 2] < -500)
    assert outside.any() and not numbers[:, outside].any() and not tensors[:, outside].any()


@pytest.mark.parametrize(
    "values,word",
    [
        ({"p_low": 0.0}, "p_low"),
        ({"p_low": 200.0}, "p_low"),
        ({"field": "toy"}, "field"),
        ({"n_track": 5}, "n_tracks"),
        ({"z_start": 100.0, "z_end": 100.0}, "same plane"),
        ({"train_share": 0.95}, "test split"),
        ({"polarity": 0}, "polarity"),
    ],
)
def test_a_bad_description_is_refused(values, word):
    with pytest.raises(ConfigError, match=word):
        check(TracksData, values, "data")


SMALL = TracksData(n_tracks=1500)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("tracks") / "tracks.h5"
    make_data(SMALL, path)
    return path


def test_the_file_says_what_it_holds(dataset):
    columns, attrs = read_hdf5(dataset)
    assert set(columns) == set(COLUMNS) and len(columns["state"]) == 1500
    assert attrs["columns"]["q_over_p"] == "charge over momentum [1/GeV]" and attrs["n_rejected"] == 0
    assert "lhcb_like" in attrs["label"] and attrs["config"]["p_low"] == 3.0
    data = load_data(SMALL, dataset)
    assert {name: len(split["inputs"]) for name, split in data.splits.items()} == {
        "train": 1200,
        "validation": 150,
        "test": 150,
    }


def test_same_seed_same_bytes(dataset, tmp_path):
    make_data(SMALL, tmp_path / "again.h5")
    again, first = read_hdf5(tmp_path / "again.h5")[0], read_hdf5(dataset)[0]
    assert all(np.array_equal(again[name], first[name]) for name in first)
    longer = next(generate(TracksData(n_tracks=3000)))
    assert np.array_equal(longer["inputs"][:1500, :4], first["state"])


@pytest.mark.parametrize(
    "column,value,word",
    [
        ("state", np.nan, "state is not finite"),
        ("q_over_p", np.inf, "p = 0"),
        ("target", np.inf, "target is not finite"),
    ],
)
def test_a_damaged_dataset_is_refused(dataset, tmp_path, column, value, word):
    columns = read_hdf5(dataset)[0]
    columns[column][7] = value
    write_hdf5(tmp_path / "bad.h5", columns)
    with pytest.raises(DataError, match=word):
        load_data(SMALL, tmp_path / "bad.h5")


def test_other_datasets_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="polarity"):
        load_data(TracksData(polarity=-1), dataset)
    with pytest.raises(DataError, match="no such dataset"):
        load_data(SMALL, tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not a dataset")
    with pytest.raises(DataError, match="HDF5"):
        load_data(SMALL, tmp_path / "text.h5")
    columns = read_hdf5(dataset)[0]
    columns["dz"][3] += 10
    write_hdf5(tmp_path / "mixed.h5", columns)
    with pytest.raises(DataError, match="variable"):
        load_data(SMALL, tmp_path / "mixed.h5")
    columns = read_hdf5(dataset)[0]
    columns["q_over_p"] /= 1000
    write_hdf5(tmp_path / "mev.h5", columns)
    with pytest.raises(DataError, match="1/MeV"):
        load_data(SMALL, tmp_path / "mev.h5")


def test_exchange_files(dataset, tmp_path):
    columns = read_hdf5(dataset)[0]
    write_npz(tmp_path / "tracks.npz", columns)
    again = read_npz(tmp_path / "tracks.npz")
    assert all(np.allclose(again[name], columns[name], rtol=1e-14, atol=0) for name in COLUMNS)
    assert len(load_data(SMALL, tmp_path / "tracks.npz").splits["test"]["inputs"]) == 150
    np.savez(tmp_path / "old.npz", X=np.zeros((3, 6)), Y=np.zeros((3, 4)))
    with pytest.raises(DataError, match="first plane"):
        read_npz(tmp_path / "old.npz")
    np.savez(tmp_path / "odd.npz", X=np.zeros((3, 5)), Y=np.zeros((3, 4)))
    with pytest.raises(DataError, match="X \\[N, 6\\]"):
        read_npz(tmp_path / "odd.npz")


def test_rows_of_one_particle_stay_together(dataset, tmp_path):
    columns = read_hdf5(dataset)[0]
    columns["group"] = np.repeat(np.arange(150), 10)
    write_hdf5(tmp_path / "grouped.h5", columns)
    data = load_data(SMALL, tmp_path / "grouped.h5")
    of_row = {tuple(np.float32(row)): group for row, group in zip(columns["state"], columns["group"], strict=True)}
    groups = [{of_row[tuple(row.numpy())] for row in split["inputs"][:, :4]} for split in data.splits.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_hopeless_acceptance_is_an_error_not_a_loop():
    with pytest.raises(DataError, match="raise p_low"):
        list(generate(TracksData(n_tracks=1000, p_low=0.01, p_high=0.05, z_start=4000.0, z_end=12000.0)))


def test_presets_generate():
    for name, config in PRESETS.items():
        piece = next(generate(config.model_copy(update={"n_tracks": 200})))
        assert len(piece["inputs"]) == 200 and np.isfinite(piece["target"]).all(), name


def test_other_planes_are_refused(dataset):
    with pytest.raises(DataError, match="2665 to 7826 mm.*4000 to 12000 mm.*data.z_start=2665"):
        load_data(PRESETS["long_leg"], dataset)
    assert load_data(TracksData(legs="variable"), dataset).meta["n_tracks"] == 1500


@pytest.mark.parametrize(
    "change,word",
    [
        (lambda keys: {"Z": keys["Z"] + [0, 5]}, "ends at"),
        (lambda keys: {"P": 2 * keys["P"]}, "GeV"),
        (lambda keys: {"Z": keys["Z"][:, 0]}, "Z has shape"),
        (lambda keys: {"X": keys["X"] * [1, 1, 1, 1, 1000, 1], "P": keys["P"] / 1000}, "1/MeV"),
        (lambda keys: {key: array[:0] for key, array in keys.items()}, "0 tracks"),
    ],
)
def test_contradictions_of_an_npz_are_refused(dataset, tmp_path, change, word):
    keys = to_exchange(read_hdf5(dataset)[0])
    np.savez(tmp_path / "x.npz", **{**keys, **change(keys)})
    with pytest.raises(DataError, match=word):
        load_data(SMALL, tmp_path / "x.npz")
    with pytest.raises(DataError, match=word):
        split_by_momentum(tmp_path / "x.npz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_damaged_and_upstream_npz(dataset, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(dataset.read_bytes()[:100])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(DataError, match="no archive, or a cut one"):
            npz_metadata(tmp_path / name)
    np.savez(tmp_path / "t.npz", **to_exchange(read_hdf5(dataset)[0]), T=np.array([{"z": 1}] * 1500, dtype=object))
    assert "trajectory" not in read_npz(tmp_path / "t.npz", optional=OPTIONAL)


def test_a_dataset_knows_its_map(tmp_path):
    axes = tuple(np.linspace(low, high, 5) for low, high in ((-1000, 1000), (-1000, 1000), (-500, 14000)))
    values = np.zeros((5, 5, 5, 3))
    write_npz_map(tmp_path / "g.npz", axes, values)
    config = TracksData(n_tracks=300, field="grid", field_map=str(tmp_path / "g.npz"))
    make_data(config, tmp_path / "d.h5")
    assert load_data(config, tmp_path / "d.h5").meta["n_tracks"] == 300
    values[..., 1] = -0.5
    write_npz_map(tmp_path / "g.npz", axes, values)
    with pytest.raises(DataError, match="another field map"):
        load_data(config, tmp_path / "d.h5")


def test_what_cannot_be_made_leaves_nothing_behind(dataset, tmp_path):
    with pytest.raises(FieldError):
        make_data(TracksData(n_tracks=300, field="grid", field_map=str(tmp_path / "none.npz")), tmp_path / "z.h5")
    with pytest.raises(DataError, match="m.txt"):
        merge([dataset], tmp_path / "m.txt")
    assert not list(tmp_path.iterdir())
