"""Datasets in several files: every file counts, all are checked before work, and none stands in two splits."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from thesis_surrogates.core.config import DataConfig, as_mapping, check, config_hash
from thesis_surrogates.core.data import items_in
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.files import file_fingerprint
from thesis_surrogates.running.datasets import check_sets, ensure_dataset, read_dataset
from thesis_surrogates.running.execution import run
from thesis_surrogates.running.inspection import inspect_file
from thesis_surrogates.running.registry import get_system, load_suite, resolve

SIZES = {"train_events": 40, "validation_events": 10, "test_events": 12}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Three small files of events with different seeds."""
    folder = tmp_path_factory.mktemp("events")
    return [dataset("events", {**SIZES, "seed": seed}, folder) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Three small files of tracks with different seeds, whose particles have the same numbers."""
    folder = tmp_path_factory.mktemp("tracks")
    return [dataset("tracks", {"n_tracks": 60, "seed": seed}, folder) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def orbits(tmp_path_factory):
    """Three small files of orbits with different seeds; those of the last have more samples."""
    folder, kind = tmp_path_factory.mktemp("orbits"), "complex_TBP_planar"
    sets = {"train_set": f"{kind}_5_train", "test_set": f"{kind}_3_test"}
    return [dataset("orbits", {**sets, "seed": seed, "points": 40 + 10 * (seed == 3)}, folder) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Asymptotic and stable files of two seeds, as users have them."""
    folder, files = tmp_path_factory.mktemp("cells"), {}
    for seed in (1, 2, 3):
        made = dataset("flavor", {"cells": 100, "seed": seed, "quadrature_order": 11}, folder)
        for stream in ("asymptotic", "stable"):
            files[stream, seed] = folder / f"{stream}_{seed}.h5"
            with h5py.File(made) as source, h5py.File(files[stream, seed], "w") as target:
                for name in source[stream]:
                    source.copy(f"{stream}/{name}", target, name)
    return files


def dataset(system, data, folder):
    config = resolve({"system": system, "model": next(iter(get_system(system).models)), "data": data})
    return ensure_dataset(get_system(system), config.data, folder)


def loaded(system, **data):
    values = load_suite(f"{system}/smoke")[0]
    data = {key: [str(one) for one in value] if isinstance(value, list) else value for key, value in data.items()}
    config = resolve({**as_mapping(values), "data": data})
    return config, read_dataset(get_system(system), config.data, ensure_dataset(get_system(system), config.data, ""))


def test_several_files_are_one_dataset_with_the_fingerprint_of_all(events):
    _, one = loaded("events", path=str(events[0]))
    _, two = loaded("events", path=[str(path) for path in events[:2]])
    assert {name: items_in(split) for name, split in two.splits.items()} == {
        "train": 80,
        "validation": 20,
        "test": 24,
    }
    assert torch.equal(two.splits["test"]["particles"][:12], one.splits["test"]["particles"])
    assert one.fingerprint == file_fingerprint(events[0]), "one file keeps the identity it had"
    prints = {loaded("events", path=[str(events[0]), str(path)])[1].fingerprint for path in events[1:]}
    assert len(prints | {one.fingerprint}) == 3


def test_files_of_splits_are_not_split_again(events, cells):
    names = dict(zip(("train", "validation", "test"), map(str, events), strict=True))
    _, data = loaded("events", path=names)
    for place, split in enumerate(names):
        own = loaded("events", path=str(events[place]))[1]
        assert torch.equal(data.splits[split]["particles"], own.splits[split]["particles"])
    streams = [
        {split: str(cells[stream, seed]) for seed, split in enumerate(names, 1)} for stream in ("asymptotic", "stable")
    ]
    _, data = loaded("flavor", path=streams[0], stable_path=streams[1])
    assert {name: items_in(split) for name, split in data.splits.items()} == dict.fromkeys(names, 200)


def test_several_cells_are_split_as_one_dataset(cells):
    several = {
        "path": [str(cells["asymptotic", 1]), str(cells["asymptotic", 2])],
        "stable_path": [str(cells["stable", 1]), str(cells["stable", 2])],
    }
    _, data = loaded("flavor", **several)
    assert sum(items_in(split) for split in data.splits.values()) == 400
    _, pair = loaded("flavor", path=str(cells["asymptotic", 1]), stable_path=str(cells["stable", 1]))
    both = [file_fingerprint(cells[stream, 1]) for stream in ("asymptotic", "stable")]
    assert pair.fingerprint == "-".join(both), "runs on one pair of files go on"
    assert len({data.fingerprint, pair.fingerprint}) == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "nowhere"], "data.path: no file .*nowhere"),
        (["1", "1"], "named twice, also by data.path"),
        (["1", "copy"], "a copy of"),
        ({"train": "1", "validation": "2", "test": "1"}, "data.path.test: .* is named twice, also by data.path.train"),
        ({"train": "1", "validation": "2", "test": "nowhere"}, "data.path.test: no file"),
        ({"train": "1", "validation": "2", "test": "again"}, "rows stand in train and in test"),
        (["1", "damaged"], "damaged"),
    ],
)
def test_all_files_are_checked_before_work(tmp_path, events, names, words):
    (tmp_path / "copy").write_bytes(events[0].read_bytes())
    (tmp_path / "damaged").write_bytes(events[1].read_bytes()[:2000])
    with h5py.File(events[2]) as source, h5py.File(events[0]) as first, h5py.File(tmp_path / "again", "w") as target:
        target.attrs.update(source.attrs)
        target["X_test"] = np.concatenate([source["X_test"][:], first["X_train"][:2]])
        target["Y_test"] = np.concatenate([source["y_test"][:], first["Y_train"][:2]])
    places = {str(k): str(path) for k, path in enumerate(events, 1)}

    def place(name):
        return places.get(name, str(tmp_path / name))

    path = [*map(place, names)] if isinstance(names, list) else {key: place(name) for key, name in names.items()}
    config = as_mapping(load_suite("events/smoke")[0])
    with pytest.raises(DataError, match=words):
        run({**config, "data": {"path": path}}, tmp_path / "runs", data_dir=tmp_path / "data", progress=False)
    assert not list(tmp_path.glob("runs/**/config.yaml")), "nothing was written"


def test_tracks_of_several_files_are_split_as_one_dataset(tracks):
    _, one = loaded("tracks", path=str(tracks[0]))
    _, two = loaded("tracks", path=tracks[:2])
    assert one.fingerprint == file_fingerprint(tracks[0]), "one file keeps the identity it had"
    assert sum(items_in(split) for split in two.splits.values()) == two.meta["n_tracks"] == 120
    assert two.meta["n_drawn"] > one.meta["n_drawn"] and two.meta["label"] == one.meta["label"]
    assert items_in(two.splits["train"]) == 96, "particles of the same number in two files are two"
    _, few = loaded("tracks", path=tracks[:2], max_samples=20)
    assert few.meta["n_tracks"] == 40


def test_tracks_in_files_of_splits_are_not_split_again(tracks):
    names = dict(zip(("train", "validation", "test"), map(str, tracks), strict=True))
    _, data = loaded("tracks", path=names)
    assert {name: items_in(split) for name, split in data.splits.items()} == dict.fromkeys(names, 60)
    assert len({data.fingerprint, *map(file_fingerprint, tracks)}) == 4
    with pytest.raises(DataError, match="rows stand in train and in test"):
        loaded("tracks", path={**names, "test": str(copied(tracks[0], tracks[0].with_name("other_name.h5")))})


def test_tracks_of_several_files_are_not_streamed(tracks):
    with pytest.raises(DataError, match="2 files of .* GB together cannot be streamed; join them"):
        loaded("tracks", path=tracks[:2], stream=True)


def test_orbits_of_several_files_keep_their_roles_and_are_padded(orbits):
    _, one = loaded("orbits", path=str(orbits[0]))
    _, two = loaded("orbits", path=[orbits[0], orbits[2]])
    assert one.fingerprint == file_fingerprint(orbits[0]), "one file keeps the identity it had"
    assert one.meta["orbits"] == {"train": 4, "validation": 1, "test": 3}
    assert two.meta["orbits"] == {"train": 8, "validation": 2, "test": 6}
    assert two.splits["test"]["mask"].sum(1).tolist() == [40] * 3 + [50] * 3
    assert torch.equal(two.splits["test"]["state"][:3, :40], one.splits["test"]["state"])
    assert torch.isnan(two.splits["test"]["state"][:3, 40:]).all()


def test_orbits_in_files_of_splits_are_not_split_again(orbits, tmp_path):
    names = dict(zip(("train", "validation", "test"), map(str, orbits), strict=True))
    _, data = loaded("orbits", path=names)
    assert data.meta["orbits"] == {"train": 5, "validation": 5, "test": 3}
    own = loaded("orbits", path=str(orbits[2]))[1].splits["test"]["state"]
    assert torch.equal(data.splits["test"]["state"], own)
    again = {**names, "validation": str(copied(orbits[0], tmp_path / "again.h5"))}
    with pytest.raises(DataError, match="rows stand in train and in validation"):
        loaded("orbits", path=again)
    with pytest.raises(ConfigError, match="split is segments, but path names the files of each split"):
        loaded("orbits", path=names, split="segments")


def copied(path, place):
    """The same rows in a file of other bytes."""
    place.write_bytes(path.read_bytes())
    with h5py.File(place, "a") as file:
        file.attrs["note"] = "written again"
    return place


def test_one_stream_in_files_of_splits_needs_the_other_so_too(cells):
    path = {split: str(cells["asymptotic", seed]) for seed, split in enumerate(("train", "validation", "test"), 1)}
    with pytest.raises(DataError, match="data.stable_path: name files for train, validation and test"):
        loaded("flavor", path=path, stable_path=str(cells["stable", 1]))


def test_what_is_recorded_of_files_of_splits_is_read_again(events):
    names = dict(zip(("train", "validation", "test"), map(str, events), strict=True))
    config = resolve({**as_mapping(load_suite("events/smoke")[0]), "data": {"path": names}})
    recorded = as_mapping(config)
    assert recorded["data"]["path"] == names and resolve(recorded) == config
    assert len({config_hash(config), config_hash(resolve({**recorded, "data": {"path": str(events[0])}}))}) == 2


def test_a_system_of_one_file_says_so():
    with pytest.raises(ConfigError, match="data.path: input should be a valid string"):
        check(DataConfig, {"path": ["a.h5", "b.h5"]}, "data")


def test_inspect_names_the_key_of_a_file_with_one_split(tmp_path, events):
    with h5py.File(events[0]) as source, h5py.File(tmp_path / "test.h5", "w") as target:
        target["X_test"], target["Y_test"] = source["X_test"][:], source["y_test"][:]
    assert inspect_file(tmp_path / "test.h5").read_by == "data.path.test of events"
    assert inspect_file(events[0]).read_by == "data.path of events"


def test_inspect_names_the_key_of_orbits_of_one_role(tmp_path, orbits):
    with h5py.File(orbits[0]) as source, h5py.File(tmp_path / "test.h5", "w") as target:
        target["test_time"], target["test_state"] = source["test_time"][:], source["test_state"][:]
    assert inspect_file(tmp_path / "test.h5").read_by == "data.path.test of orbits"
    assert inspect_file(orbits[0]).read_by == "data.path of orbits"


def test_a_named_set_may_be_a_file(tmp_path, events):
    config = resolve({**as_mapping(load_suite("events/smoke")[0]), "evaluate_on": [str(events[2])]})
    check_sets(get_system("events"), config)
