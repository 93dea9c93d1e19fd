"""Equal prices for all rows of the events table: quantisers, greedy codes, code lengths, missing momentum, shares."""

import math

import h5py
import numpy as np
import pytest
import torch
from small_models import small_events

from thesis_surrogates.core.comparison import score_all
from thesis_surrogates.core.data import Data
from thesis_surrogates.events import kinematics
from thesis_surrogates.events.baselines import baselines
from thesis_surrogates.events.data import COLUMNS, SLOTS, read_split
from thesis_surrogates.events.metrics import count_levels, held_out_bits, score


@pytest.fixture(scope="module")
def splits():
    return small_events(train=4_000, validation=8, test=800)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p4", [(0, 0, 0, 0), (0, 0, 5, 5), (3, 4, 0, 5), (3, 4, 0, 4), (0, 0, 0, 2)])
def test_gradients_at_rest_without_mass_and_along_the_beam_are_finite(p4, dtype):
    for function in (kinematics.mass, kinematics.polar, lambda p: kinematics.magnitude_angle(p[..., :2])):
        x = torch.tensor(p4, dtype=dtype, requires_grad=True)
        out = function(x)
        sum(out).backward() if isinstance(out, tuple) else out.backward()
        assert torch.isfinite(x.grad).all(), function


def test_values_of_kinematics_are_unchanged_and_not_a_number_stays():
    p = np.random.default_rng(0).normal(size=(1_000, 4))
    assert np.array_equal(kinematics.magnitude_angle(p[:, :2])[0], np.hypot(p[:, 0], p[:, 1]))
    assert np.array_equal(kinematics.polar(p)[2], np.arctan2(p[:, 1], p[:, 0]))
    assert [float(v) for v in kinematics.magnitude_angle(np.zeros(2))] == [0, 0]
    assert np.isnan(kinematics.mass(np.array([0.0, 0.0, 0.0, np.nan])))


def test_a_limit_keeps_the_shares_of_a_class_sorted_file(tmp_path):
    sizes = {1: 500, 2: 120, 3: 120, 4: 120, 5: 140}
    labels = np.repeat(list(sizes), list(sizes.values())).astype(float)
    rows = np.zeros((len(labels), COLUMNS), np.float32)
    rows[:, SLOTS] = np.arange(len(labels))
    with h5py.File(tmp_path / "sorted.h5", "w") as file:
        for name in ("train", "val", "test"):
            file[f"X_{name}"], file[f"y_{name}"] = rows, labels
    values, found, _ = read_split(tmp_path / "sorted.h5", "train", 100)
    assert dict(zip(*np.unique(found, return_counts=True), strict=True)) == {1: 50, 2: 12, 3: 12, 4: 12, 5: 14}
    assert np.array_equal(labels[values[:, SLOTS].astype(int)], found)
    assert len(read_split(tmp_path / "sorted.h5", "train", 7)[1]) == 7
    assert len(read_split(tmp_path / "sorted.h5", "train", 5_000)[1]) == 1_000


def data_of(splits):
    return Data(splits=splits, fingerprint="test", meta={})


@pytest.fixture(scope="module")
def table(splits):
    found = score_all(baselines(data_of(splits)), splits["test"], score)
    return {name.split(",")[0]: one.metrics for name, one in found.items()}


def test_every_row_has_an_error_in_spreads_and_both_prices(table):
    for name, row in table.items():
        assert math.isfinite(row["squared_error"]) and math.isfinite(row["bits_per_event"]), name
        assert math.isfinite(row["fixed_bits_per_particle"]), name
    assert 0.8 < table["one token"]["squared_error"] < 1.2 and table["one token"]["bits_per_particle"] == 0
    assert table["uniform 65536"]["squared_error"] < 1e-8
    assert table["float16"]["squared_error"] < 1e-6 and table["float16"]["bits_per_particle"] < 48


def test_greedy_codes_cancel_the_error_of_the_sum_at_equal_price(table):
    plain, *greedy = (table[f"{name}"] for name in ("k-means 512 momenta", "greedy 512 momenta 0.0001"))
    assert greedy[0]["visible_met_half_width_gev"] < plain["visible_met_half_width_gev"] / 3
    assert abs(greedy[0]["bits_per_particle"] - plain["bits_per_particle"]) < 0.15
    assert plain["squared_error"] < greedy[0]["squared_error"]


def test_the_price_does_not_saturate_with_the_test_particles(splits, table):
    most = math.log2(int((splits["test"]["types"] != 0).sum()))
    assert table["uniform 1024"]["bits_per_particle"] > most + 8


def test_rows_from_true_particles_are_references(splits, table):
    kinds = {row.name: row.kind for row in baselines(data_of(splits))}
    names = ("sum of true particles", "trees on true particles")
    assert [kinds[name] for name in names] == ["reference", "reference"]
    assert table[names[1]]["met_half_width_gev"] < table[names[0]]["met_half_width_gev"]


def test_code_lengths_of_no_particle_and_of_several_levels():
    counts = count_levels(torch.zeros(0, dtype=torch.int64), 8)
    assert counts.shape == (1, 8) and held_out_bits(torch.zeros(0, dtype=torch.int64), counts).tolist() == [0]
    assert held_out_bits(torch.zeros(5, 2, dtype=torch.int64), torch.zeros(2, 8)).tolist() == [3, 3]
