"""Guards of what orbits come in as: sets by name, elements, dictionaries of the older work, wrong units, the split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thesis_surrogates.core.config import check, config_hash
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.hdf5 import read_hdf5, write_hdf5
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data, segment
from thesis_surrogates.orbits.generator import BOXES, draw_elements, grid_cells, make_orbit_set, parse_set_name
from thesis_surrogates.orbits.kepler import (
    EARTH_MU_KM3_S2,
    EARTH_RADIUS_KM,
    Elements,
    elements_to_state,
    orbit_states,
    propagate_kepler,
    sample_times,
    specific_energy,
    state_to_elements,
)
from thesis_surrogates.orbits.models import NeuralODEConfig
from thesis_surrogates.orbits.segments import SegmentError, cut_segments
from thesis_surrogates.orbits.training import OrbitsTrain, plan

SMALL = {"train_set": "complex_TBP_planar_5_train", "test_set": "complex_TBP_planar_2_test", "points": 60}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "orbits.h5"
    make_data(OrbitsData(**SMALL), path)
    return path


def test_defaults_of_mu_fit_together() -> None:
    time, states = orbit_states(1.5, 0.4, 0.2, 0.3, 0.4, 0.5, 24)
    assert np.ptp(specific_energy(states)) < 1e-14
    assert np.allclose(propagate_kepler(states[:1], time)[0], states)
    found = state_to_elements(states[0])
    assert np.isclose(found.semi_major_axis, 1.5) and np.isclose(found.true_anomaly, 0.5)
    one = Elements(**{name: np.atleast_1d(value) for name, value in vars(found).items()})
    assert np.allclose(elements_to_state(one)[0], states[0]) and np.allclose(sample_times(one, 24)[0], time)


@pytest.mark.parametrize("anomaly", ["mean", "eccentric", "true"])
def test_orbit_states_leave_the_endpoint_out(anomaly: str) -> None:
    time, states = orbit_states(8000.0, 0.5, 0, 0, 0, 1.0, 360, EARTH_MU_KM3_S2, anomaly)  # type: ignore[arg-type]
    period = 2 * np.pi * np.sqrt(8000.0**3 / EARTH_MU_KM3_S2)
    assert time.shape == (360,) and states.shape == (360, 6) and time[0] == 0 and time[-1] < period
    assert np.all(states[:, [2, 5]] == 0)
    with pytest.raises(ValueError, match="at least 1 point"):
        orbit_states(1.0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("box", BOXES)
def test_every_box_makes_a_set(box: str) -> None:
    number = len(grid_cells(4)) if BOXES[box].grid else 7
    elements = draw_elements(f"{box}_TBP_planar_{number}_test", seed=1)
    assert len(elements.eccentricity) == number
    assert (elements.semi_major_axis * (1 - elements.eccentricity) > EARTH_RADIUS_KM * (1 - 1e-9)).all()
    assert (elements.eccentricity == 0).all() == (box == "circular")
    assert (elements.true_anomaly == 0).all() == (box in ("fixnu0", "grid"))


@pytest.mark.parametrize(
    "name, box, orbits",
    [
        ("complex_TBP_planar", "complex", 100),
        ("complex_TBP_planar_4", "complex", 4),
        ("complex_TBP_planar_1024", "complex", 1024),
        ("complex_TBP_planar_fixnu0_16", "fixnu0", 16),
        ("single_complex_TBP_planar_v3", "single", 1),
        ("2BP_grid_test", "grid", 73),
    ],
)
def test_older_names(name: str, box: str, orbits: int) -> None:
    wanted = parse_set_name(name)
    assert (wanted.text, wanted.box, wanted.orbits, wanted.role, wanted.planar) == (name, box, orbits, "pool", True)
    assert len(draw_elements(name, 0).eccentricity) == orbits


def test_the_known_member() -> None:
    for seed in (0, 5):
        known = make_orbit_set("TBP_complex_planar_1", seed)
        assert known.elements[0, [0, 1, 5]].tolist() == [35359.73, 0.37370604, 5.6238999]
    data = OrbitsData(train_set="TBP_complex_planar_1", test_set="complex_TBP_planar")
    assert data.is_planar and parse_set_name(data.fresh_test(3, 10).train_set).orbits == 2


def test_a_grid_is_full() -> None:
    with pytest.raises(ValueError, match="has 58 or 73 orbits, not 60"):
        parse_set_name("grid_TBP_planar_60_test")


def test_names_of_sets_that_were_there_draw_what_they_drew() -> None:
    first = draw_elements("complex_TBP_planar_100_train", seed=0).as_array()[0]
    assert first.round(3).tolist() == [8836.662, 0.058, 0.0, 0.0, 0.476, 4.503]


def spoil(made: Path, folder: Path, role: str, change: dict[str, Any]) -> Path:
    arrays, attributes = read_hdf5(made)
    for name, factor in change.items():
        arrays[f"{role}_{name}"] = arrays[f"{role}_{name}"] * factor
    write_hdf5(folder / "bad.h5", arrays, attributes)
    return folder / "bad.h5"


POSITION, VELOCITY = np.repeat([1000.0, 1.0], 3), np.repeat([1.0, 1000.0], 3)


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize(
    "change, word",
    [
        ({"time": 1 / 60}, "times are in minutes; multiply them by 60"),
        ({"time": 1 / 3600}, "times are in hours"),
        ({"time": 1000.0}, "times are in milliseconds"),
        ({"state": POSITION}, "positions are in metres; divide them by 1000"),
        ({"state": VELOCITY}, "velocities are in m/s; divide them by 1000"),
        ({"state": POSITION * VELOCITY}, "positions are in metres and velocities in m/s"),
        ({"time": 3.0}, "do not fit its positions and velocities"),
    ],
)
def test_wrong_units_are_named(made: Path, tmp_path: Path, role: str, change: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word) as told:
        load_data(OrbitsData(**SMALL), spoil(made, tmp_path, role, change))
    assert str(told.value).startswith(f"{tmp_path}/bad.h5 ({role}): ") and str(told.value).count("bad.h5") == 1
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("points", [5, 12, 360])
@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_right_units_are_right_with_few_samples_and_with_noise(tmp_path: Path, points: int, noise: float) -> None:
    config = OrbitsData(**{**SMALL, "points": points, "train_set": "complex_TBP_planar_30_train"})
    make_data(config, tmp_path / "o.h5")
    arrays, attributes = read_hdf5(tmp_path / "o.h5")
    rng = np.random.default_rng(0)
    arrays["train_state"] = arrays["train_state"] * (1 + noise * rng.standard_normal(arrays["train_state"].shape))
    write_hdf5(tmp_path / "noisy.h5", arrays, attributes)
    load_data(config, tmp_path / "noisy.h5")


def test_the_body_must_be_known_and_right(made: Path, tmp_path: Path) -> None:
    arrays, _ = read_hdf5(made)
    write_hdf5(tmp_path / "mine.h5", arrays)
    with pytest.raises(DataError, match="nothing says around which body .* set data.mu_km3_s2"):
        load_data(OrbitsData(**SMALL), tmp_path / "mine.h5")
    assert load_data(OrbitsData(**SMALL, mu_km3_s2=EARTH_MU_KM3_S2), tmp_path / "mine.h5").meta["planar"]
    with pytest.raises(DataError, match="falls as around a body of mu = 39"):
        load_data(OrbitsData(**SMALL, mu_km3_s2=42828.37), tmp_path / "mine.h5")


def test_orbits_through_the_earth_are_counted_and_told(made: Path, tmp_path: Path) -> None:
    arrays, attributes = read_hdf5(made)
    deep = orbit_states(7000.0, 0.5, 0, 0, 0, np.pi, 60, EARTH_MU_KM3_S2)
    arrays["test_time"][0], arrays["test_state"][0] = deep
    write_hdf5(tmp_path / "deep.h5", arrays, attributes)
    with pytest.warns(UserWarning, match="1 of 2 orbits dip below the surface, the deepest to 3500 km"):
        data = load_data(OrbitsData(**SMALL), tmp_path / "deep.h5")
    assert data.meta["below_surface"] == {"train": 0, "test": 1}


def as_dictionary(made: Path, role: str) -> dict[str, Any]:
    arrays, _ = read_hdf5(made)
    pairs = zip(arrays[f"{role}_time"], arrays[f"{role}_state"], strict=True)
    entries = {
        f"orbit_{k}": {"t": t.tolist(), "y": y.T.tolist(), "metadata": {"sma": 1}} for k, (t, y) in enumerate(pairs)
    }
    return {"orbit_10": entries.pop("orbit_1"), **entries}  # the tenth comes last


@pytest.mark.parametrize("kind", ["json", "npz", "json of both"])
def test_dictionaries_of_the_older_work(made: Path, tmp_path: Path, kind: str) -> None:
    sets = {role: as_dictionary(made, role) for role in ("train", "test")}
    other: dict[str, Any] = {}
    if kind == "json of both":
        path = tmp_path / "both.json"
        path.write_text(json.dumps({**sets, "mu_km3_s2": EARTH_MU_KM3_S2}))
    else:
        for role, entries in sets.items():
            flat = {f"{name}/{key}": np.array(entry[key]) for name, entry in entries.items() for key in ("t", "y")}
            name = tmp_path / f"{role}.{kind}"
            name.write_text(json.dumps(entries)) if kind == "json" else np.savez(name, **flat)
        path, other = (
            tmp_path / f"train.{kind}",
            {"mu_km3_s2": EARTH_MU_KM3_S2, "test_path": str(tmp_path / f"test.{kind}")},
        )
    config = check(OrbitsData, {**SMALL, "path": str(path), "planar": True, **other}, "data")
    data, own = load_data(config, path), load_data(OrbitsData(**SMALL), made)
    assert data.meta["orbits"] == own.meta["orbits"] and len(data.fingerprint) == 64
    assert torch.allclose(data.splits["test"]["state"][1], own.splits["test"]["state"][1])
    sizes = [set(one.splits["train"]["semi_major_axis"].round(decimals=6).tolist()) for one in (data, own)]
    assert sizes[0] | set(data.splits["validation"]["semi_major_axis"].round(decimals=6).tolist()) >= sizes[1]


@pytest.mark.parametrize(
    "text, word",
    [
        ('{"orbit_0": {"t": [0, 1]}}', "orbit_0 needs numbers t"),
        (
            '{"orbit_0": {"t": [0, 1], "y": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]}}',
            r"y \[2, 6\]; give t \[T\] and y \[6\]",
        ),
        ('{"first": 1}', "no orbit_0"),
        ("[]", "holds a list"),
        ("{", "not a readable json file"),
    ],
)
def test_bad_dictionaries(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    config = OrbitsData(**SMALL, path="bad.json", mu_km3_s2=1.0, test_path=str(tmp_path / "bad.json"))
    with pytest.raises(DataError, match=word):
        load_data(config, tmp_path / "bad.json")


def test_one_dictionary_alone_names_the_remedy(made: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(as_dictionary(made, "train")))
    with pytest.raises(DataError, match=r"data\.test_path"):
        load_data(OrbitsData(**SMALL, path="train.json"), tmp_path / "train.json")


def test_segments_of_anything_with_times_and_states() -> None:
    time, state = torch.arange(120.0)[None], torch.ones(1, 120, 6)
    state[0, 90:] = torch.nan
    orbits = {"time": time, "state": state}
    assert [len(segment(orbits, length)["state"]) for length in (18, 90)] == [5, 1]
    for length in (91, 200):
        with pytest.raises(SegmentError, match=f"length {length} .* longest run of real samples is 90"):
            segment(orbits, length)
    assert len(segment(make_orbit_set("complex_TBP_planar_2_train", 0), 7)["time"]) == 102


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_goes_on(stride: int) -> None:
    orbits = {"time": torch.arange(9.0)[None], "state": torch.ones(1, 9, 6), "mask": torch.ones(1, 9, dtype=torch.bool)}
    with pytest.raises(SegmentError, match=f"stride {stride} does not go on; choose stride >= 1"):
        cut_segments(orbits, 3, stride)


def test_what_no_segment_reaches_names_the_longest_run() -> None:
    mask = torch.tensor([[False, True, True, True, False, False]])
    orbits = {"time": torch.arange(6.0)[None], "state": torch.ones(1, 6, 6), "mask": mask}
    with pytest.raises(SegmentError, match=r"the longest is 3 \(orbit 0\)"):
        cut_segments(orbits, 3)


def test_the_first_n_of_a_shuffle(made: Path) -> None:
    first, shuffled, again = (
        load_data(
            OrbitsData(**SMALL, training_orbits=2, validation_fraction=0.5, seed=seed, shuffle_orbits=shuffle), made
        )
        for seed, shuffle in ((0, False), (4, True), (4, True))
    )
    sizes = [
        set(torch.cat([one.splits[k]["semi_major_axis"] for k in ("train", "validation")]).tolist())
        for one in (first, shuffled, again)
    ]
    assert sizes[1] == sizes[2] != sizes[0] and all(len(size) == 2 for size in sizes)


def test_segments_first_is_called_a_leak(made: Path) -> None:
    with pytest.warns(UserWarning, match="which leaks"):
        data = load_data(OrbitsData(**SMALL, split="segments"), made)
    assert "leaks" in data.meta["leak"]
    train, config = OrbitsTrain(segment_length_strategy=[10], steps_strategy=[1]), NeuralODEConfig(width=4, depth=1)
    curriculum = plan(config.build(OrbitsData(**SMALL)), data, config, train, 0)
    trained = len(curriculum.phases[0].source.tensors["time"])  # type: ignore[attr-defined]
    assert 0 < trained < 5 * 6 and trained == round(0.8 * 30)


def test_keys_of_data_that_came_later_change_no_identity() -> None:
    run = {"system": "orbits", "model": {"name": "neural_ode"}}
    plain, same, other = (
        config_hash({**run, "data": OrbitsData(**SMALL, **keys).model_dump(mode="json")})  # type: ignore[arg-type]
        for keys in ({}, {"split": "orbits", "shuffle_orbits": False}, {"split": "segments"})
    )
    assert plain == same != other
    with pytest.raises(ConfigError, match="split"):
        check(OrbitsData, {"split": "pieces"}, "data")
