"""Guards of the event generator, the kinematics and the 92-column format."""

import hashlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.hdf5 import write_hdf5
from thesis_surrogates.events.data import COLUMNS, EventsData, load_data, make_data, pack_rows, process_counts
from thesis_surrogates.events.generator import (
    B_MASS_GEV,
    PROCESSES,
    generate,
    generate_block,
    produce,
    summary,
)
from thesis_surrogates.events.kinematics import (
    boost,
    cartesian,
    delta_phi,
    mass,
    missing_momentum,
    momentum_record,
    polar,
)

PUBLISHED = {"tttt": (10.1, 86), "ttH": (8.0, 65), "ttW": (7.6, 77), "ttWW": (8.9, 86), "ttZ": (7.6, 78)}


@pytest.mark.parametrize("process", PROCESSES)
def test_truth_closes_and_is_physical(process):
    partons = produce(np.random.default_rng(3), process, 3_000)
    assert np.abs(partons.p4.sum(1)[:, :2]).max() < 1e-9
    assert np.all(partons.p4[..., 3] ** 2 >= (partons.p4[..., :3] ** 2).sum(-1) * (1 - 1e-12))
    assert np.all((partons.species == 0) == (partons.p4[..., 3] == 0))


@pytest.mark.parametrize("process", PROCESSES)
def test_published_table(process):
    numbers = summary(generate(11, "test", {process: 4_000}))
    objects, met = PUBLISHED[process]
    assert abs(numbers["objects"] - objects) < 0.3
    assert abs(numbers["met_mean_gev"] - met) < 5
    assert numbers["overflow"] == 0


def test_masses_at_truth():
    p4 = produce(np.random.default_rng(0), "tttt", 5_000).p4
    assert abs(np.median(mass(p4[:, 1:3].sum(1))) - 80.4) < 0.3
    assert abs(np.median(mass(p4[:, :3].sum(1))) - 172.5) < 0.3
    assert np.abs(mass(p4[:, 0]) - B_MASS_GEV).max() < 1e-3


def test_same_seed_in_another_process():
    code = (
        "import hashlib; from thesis_surrogates.events.generator import generate_block as g;"
        "e = g({seed}, 'train', 'ttWW', 2); print(hashlib.sha256(e.particles.tobytes() + e.met.tobytes()).hexdigest())"
    )
    other = [
        subprocess.run(
            [sys.executable, "-c", code.format(seed=seed)], capture_output=True, text=True, check=True
        ).stdout
        for seed in (5, 6)
    ]
    here = generate_block(5, "train", "ttWW", 2)
    digest = hashlib.sha256(here.particles.tobytes() + here.met.tobytes()).hexdigest()
    assert other[0].strip() == digest != other[1].strip()


def test_overflow_is_counted_and_keeps_the_hardest():
    wide, narrow = (generate_block(0, "train", "tttt", 0, slots) for slots in (18, 9))
    assert narrow.overflow() == (wide.found > 9).sum() > 0
    row = int(np.argmax(wide.found))
    kept = np.sort(narrow.particles[row, :, 0])
    assert np.allclose(kept, np.sort(wide.particles[row, :, 0])[-9:])


def test_four_tops_are_separable_but_not_trivially():
    trees = pytest.importorskip("sklearn.ensemble")
    from sklearn.metrics import roc_auc_score

    def high_level(split):
        e = generate(0, split, process_counts(8_000, 0.5))
        real = e.types != 0
        pt = e.particles[..., 0] * real
        x = [
            real.sum(1),
            (e.types == 2).sum(1),
            (e.types > 2).sum(1),
            pt.sum(1),
            np.hypot(*e.met.T),
            pt.max(1),
            (e.types == 1).sum(1),
        ]
        return np.stack(x, -1), e.process == 1

    (x, y), (x_test, y_test) = high_level("train"), high_level("test")
    model = trees.HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(x, y)
    assert 0.85 < roc_auc_score(y_test, model.predict_proba(x_test)[:, 1]) < 0.93


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_kinematics_in_both_libraries(kind):
    rng = np.random.default_rng(1)
    pt, eta, phi = rng.gamma(2, 40, 500), rng.normal(size=500), rng.uniform(-np.pi, np.pi, 500)
    energy = np.hypot(pt * np.cosh(eta), 10.0)
    arrays = [torch.from_numpy(v) if kind == "torch" else v for v in (pt, eta, phi, energy)]
    p4 = cartesian(*arrays)
    for a, b in zip(polar(p4), arrays, strict=True):
        assert np.allclose(np.asarray(a), np.asarray(b), atol=1e-10)
    assert np.allclose(np.asarray(mass(p4)), 10.0, atol=1e-6)
    beta = p4[..., :3] / p4[..., 3:] * 0.5
    assert np.allclose(np.asarray(mass(boost(p4, beta))), 10.0, atol=1e-5)
    mask = arrays[0] > 0
    turned = missing_momentum(arrays[0], arrays[2] + 0.7, mask)
    straight = missing_momentum(arrays[0], arrays[2], mask)
    size, size_turned = (np.hypot(*np.asarray(v)) for v in (straight, turned))
    angle = delta_phi(np.arctan2(*np.asarray(turned)[::-1]), np.arctan2(*np.asarray(straight)[::-1]))
    assert abs(size_turned / size - 1) < 1e-6 and abs(angle - 0.7) < 1e-6


def test_agrees_with_the_vector_library():
    vector = pytest.importorskip("vector")
    rng = np.random.default_rng(2)
    pt, eta = rng.gamma(2, 40, 300), rng.normal(size=300)
    particles = np.stack([pt, eta, rng.uniform(-3, 3, 300), np.hypot(pt * np.cosh(eta), 20.0)], -1)
    record = momentum_record(particles).view(vector.MomentumNumpy4D)
    p4 = cartesian(*np.moveaxis(particles, -1, 0))
    assert np.allclose(np.stack([record.px, record.py, record.pz, record.E], -1), p4)
    assert np.allclose(record.mass, mass(p4))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.h5"
    make_data(EventsData(train_events=64, validation_events=16, test_events=16), path)
    return path


def test_generated_twice_is_the_same_file(small_file, tmp_path):
    make_data(EventsData(train_events=64, validation_events=16, test_events=16), tmp_path / "again.h5")
    first, second = load_data(EventsData(), small_file), load_data(EventsData(), tmp_path / "again.h5")
    assert all(torch.equal(first.splits["train"][k], second.splits["train"][k]) for k in first.splits["train"])
    make_data(EventsData(seed=1, train_events=64, validation_events=16, test_events=16), tmp_path / "other.h5")
    assert not torch.equal(
        load_data(EventsData(), tmp_path / "other.h5").splits["train"]["met"], first.splits["train"]["met"]
    )


def rewrite(source, target, **changes):
    """A copy of a file with datasets or attributes replaced; None leaves one out."""
    with h5py.File(source) as file:
        arrays, attrs = {k: file[k][()] for k in file}, dict(file.attrs)
    for key, value in changes.items():
        where = attrs if key in attrs else arrays
        where.pop(key, None)
        if value is not None:
            where[key] = value
    write_hdf5(target, arrays, attrs)


def test_published_file_without_attributes_and_with_small_labels(small_file, tmp_path):
    with h5py.File(small_file) as file:
        arrays = {k.replace("Y_train", "y_train"): file[k][()] for k in file}
    write_hdf5(tmp_path / "plain.h5", {k: v.astype(np.float64) for k, v in arrays.items()})
    data = load_data(EventsData(limit=10), tmp_path / "plain.h5")
    assert len(data.splits["train"]["met"]) == 10


def test_gev_file_gives_the_same_tensors(small_file, tmp_path):
    events = generate(0, "train", process_counts(64, 0.5))
    rewrite(
        small_file,
        tmp_path / "gev.h5",
        X_train=pack_rows(events, "GeV"),
        X_val=pack_rows(events, "GeV")[:16],
        X_test=pack_rows(events, "GeV")[:16],
        energy_unit="GeV",
    )
    a, b = load_data(EventsData(), small_file), load_data(EventsData(), tmp_path / "gev.h5")
    torch.testing.assert_close(a.splits["train"]["particles"], b.splits["train"]["particles"], rtol=1e-5, atol=1e-4)


BROKEN = {
    "columns": ({"X_train": np.zeros((64, 74), np.float32)}, "92"),
    "labels": ({"Y_train": np.full(64, 7.0)}, "label"),
    "lengths": ({"Y_train": np.ones(60)}, "label"),
    "missing": ({"X_val": None}, "no dataset X_val"),
    "nan": ({"X_test": np.full((16, COLUMNS), np.nan, np.float32)}, "not finite"),
    "unit": ({"energy_unit": "TeV"}, "energy_unit"),
    "wrong unit": ({"energy_unit": "GeV"}, "energy_unit"),
    "ids": ({"X_test": np.full((16, COLUMNS), 0.5, np.float32)}, "ids"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_and_explained(case, small_file, tmp_path):
    changes, words = BROKEN[case]
    rewrite(small_file, tmp_path / "broken.h5", **changes)
    with pytest.raises(DataError, match=words) as caught:
        load_data(EventsData(), tmp_path / "broken.h5")
    assert "broken.h5" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 5_000])
def test_truncated_file(keep, small_file, tmp_path):
    (tmp_path / "short.h5").write_bytes(small_file.read_bytes()[:keep])
    with pytest.raises(DataError, match="short.h5"):
        load_data(EventsData(), tmp_path / "short.h5")
