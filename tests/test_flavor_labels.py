"""Labels from kinetic boxes: interrupted they go on, any number of processes gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.hdf5 import read_hdf5
from thesis_surrogates.flavor.data import LABELS, FlavorData, load_data, make_data
from thesis_surrogates.flavor.kinetics import TOO_SLOW, simulate
from thesis_surrogates.flavor.metrics import score
from thesis_surrogates.flavor.streams import FINAL, INITIAL, RATE, SCATTER, STABLE, read_stream
from thesis_surrogates.flavor.study.kinetic import labels
from thesis_surrogates.flavor.study.kinetic.labels import LINEAR_RATE, BoxConfig, make_kinetic

TOY = BoxConfig(points=16, wavelengths=2, directions=5, end=0.5, seeds=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "labels.h5"
    make_kinetic(path, 0, 3, TOY)
    return path


def test_interrupted_it_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch):
    made, path = [], tmp_path / "labels.h5"

    def counted(f4, protocol, seeds):
        made.append(seeds.start)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(f4, protocol, seeds)

    real = labels.simulate_cell
    monkeypatch.setattr(labels, "simulate_cell", counted)
    with pytest.raises(KeyboardInterrupt):
        make_kinetic(path, 0, 3, TOY)
    assert not path.exists()
    make_kinetic(path, 0, 3, TOY)
    assert made == [0, 2, 2, 4], "cell 0 is not run a second time"
    assert path.read_bytes() == whole.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == ["labels.h5"]


def test_two_processes_write_the_same_bytes(whole, tmp_path):
    make_kinetic(tmp_path / "labels.h5", 0, 3, TOY, workers=2)
    assert (tmp_path / "labels.h5").read_bytes() == whole.read_bytes()


def test_beginnings_of_other_boxes_are_refused(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(labels, "simulate_cell", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_kinetic(tmp_path / "labels.h5", 0, 3, TOY)
    with pytest.raises(DataError, match="another dataset"):
        make_kinetic(tmp_path / "labels.h5", 0, 3, TOY.model_copy(update={"seeds": 1}))


def test_rows_are_those_of_simulate(whole):
    with h5py.File(whole) as file:
        columns = {name: file["asymptotic"][name][()] for name in (INITIAL, FINAL, SCATTER, RATE, LINEAR_RATE)}
    boxes = simulate(columns[INITIAL][1:2], 16, 2, 5, seed=2, seeds=2, protocol=TOY.protocol())
    np.testing.assert_array_equal(columns[FINAL][1], boxes.f4_final[0])
    np.testing.assert_array_equal(columns[SCATTER][1], boxes.f4_std[0])
    assert columns[RATE][1] == boxes.growth_rate[0] and columns[LINEAR_RATE][1] == boxes.linear_rate[0]


def test_the_file_is_read_like_any_other_and_says_how_it_was_made(whole):
    arrays, report = read_stream(whole, "asymptotic", "asymptotic/")
    assert report.kept == 3 and report.flavor_sum_change < 1e-12 and report.lepton_number_change < 1e-5
    still, _ = read_stream(whole, "stable", "stable/")
    assert len(still[STABLE]) == 3 and still[STABLE].all()
    with h5py.File(whole) as file:
        about = dict(file.attrs)
    assert about["rate_method"] == "simulated" and "kinetic_1d" in about["label_method"]
    assert json.loads(about["protocol"])["points"] == 16 and about["too_slow_left_out"] == 0 and about["code_version"]


def test_a_cell_too_slow_has_no_row_and_is_counted(tmp_path, monkeypatch):
    real = labels.simulate_cell

    def slow(f4, protocol, seeds):
        return real(f4, protocol, seeds) | ({"flag": TOO_SLOW} if seeds.start == 0 else {})

    monkeypatch.setattr(labels, "simulate_cell", slow)
    make_kinetic(tmp_path / "labels.h5", 0, 1, TOY)
    with h5py.File(tmp_path / "labels.h5") as file:
        assert file.attrs["too_slow_left_out"] == 1 and file["asymptotic"][INITIAL].shape[0] == 1


def test_methods_are_named_in_the_configuration(tmp_path):
    with pytest.raises(ValueError, match="kinetic_1d"):
        FlavorData(label_method="guess")
    assert FlavorData(label_method="power_half") == FlavorData(label_method="power-1/2")
    with pytest.raises(DataError, match="kinetic_1d"):
        make_data(FlavorData(rate_method="simulated"), tmp_path / "x.h5")
    assert "rate_method" not in FlavorData().model_dump() and "box" not in FlavorData().model_dump()
    assert set(LABELS) == {"power-1/2", "box3d", "kinetic_1d"}


def test_another_generator_is_another_dataset_and_the_mixture_is_what_it_was(tmp_path):
    assert "generator" not in FlavorData().described()
    assert FlavorData(generator="tilted").file_name("flavor") != FlavorData().file_name("flavor")
    for generator in ("aligned", "tilted"):
        config = FlavorData(cells=100, generator=generator, quadrature_order=17)
        path = tmp_path / f"{generator}.h5"
        make_data(config, path)
        assert read_hdf5(path, [])[1]["generator"] == generator
        cells = load_data(config, path).splits["train"]["f4_initial"]
        patch = cells[(cells[:, 3] > 0).all((1, 2)) & (cells[:, :3] != 0).any(1).all((1, 2))]
        assert bool((patch[..., 1] == patch[..., 2]).all()) == (generator == "aligned")
    with pytest.raises(DataError, match=r"generator=tilted needs labels of a scheme"):
        make_data(FlavorData(generator="tilted", label_method="kinetic_1d"), tmp_path / "k.h5")


def test_the_scatter_of_labels_is_reported_beside_the_error(whole, tmp_path):
    arrays = read_stream(whole, "asymptotic", "asymptotic/")[0]
    rows = load_data(FlavorData(path=str(whole), split="random", test_share=0.3, validation_share=0.3), tmp_path).splits
    truth = {name: torch.cat([part[name] for part in rows.values()]) for name in rows["test"]}
    total = arrays[INITIAL][:, 3].sum((1, 2))
    expected = np.sqrt(np.mean((arrays[SCATTER][:, 3, :, 0] / total[:, None]) ** 2))
    shift = truth["f4_final"] + 0.01 * truth["f4_initial"][:, 3].sum((1, 2))[:, None, None, None]
    found = score({**truth, "f4_final": shift, "stability": truth["stable"]}, truth).metrics
    assert found["ne_scatter"] == pytest.approx(expected, rel=1e-5) and expected > 0
    assert found["ne_rmse_beyond_scatter"] == pytest.approx(max(0.01**2 - expected**2, 0) ** 0.5, rel=1e-3)
    truth["ne_scatter"] = torch.zeros_like(truth["stable"])
    assert "ne_scatter" not in score({**truth, "stability": truth["stable"]}, truth).metrics


def test_labels_of_an_older_way_are_refused(whole, tmp_path):
    """They lost up to .058 of all neutrinos in lepton number where three flavors differ."""
    old = tmp_path / "old.h5"
    old.write_bytes(whole.read_bytes())
    with h5py.File(old, "r+") as file:
        del file.attrs["labels_version"]
    with pytest.raises(DataError, match=r"old\.h5: labels of boxes of version 1.*--again"):
        load_data(FlavorData(path=str(old), split="random"), old)
