"""Measured orbits: noise and gaps are part of the data's identity, and a fit of elements finds the law in them."""

from __future__ import annotations

from pathlib import Path

import torch

from thesis_surrogates.core.comparison import score_all
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.system import SYSTEM

SETS = {"train_set": "complex_TBP_planar_4_train", "test_set": "complex_TBP_planar_2_test", "points": 40}


def test_noise_is_recorded_and_the_correction_finds_the_law(tmp_path: Path) -> None:
    exact, measured = OrbitsData(**SETS), OrbitsData(**SETS, noise=1e-3, missing=0.2)
    make_data(exact, tmp_path / "orbits.h5")
    make_data(measured, tmp_path / "measured.h5")
    data, noisy = load_data(exact, tmp_path / "orbits.h5"), load_data(measured, tmp_path / "measured.h5")
    again = load_data(measured, tmp_path / "orbits.h5")
    assert data.fingerprint != again.fingerprint and exact.file_name("orbits") != measured.file_name("orbits")
    assert "noise" not in exact.model_dump() and noisy.meta["observed"] == {"noise": 1e-3, "missing": 0.2}
    assert torch.equal(data.splits["test"]["state"], noisy.splits["test"]["state"])
    real = noisy.splits["train"]["mask"]
    assert torch.equal(noisy.splits["train"]["state"][real], again.splits["train"]["state"][real])
    assert [one.name for one in SYSTEM.baselines(data)] == [one.name for one in SYSTEM.baselines(noisy)][:-1]
    last = SYSTEM.baselines(noisy)[-1]
    found = score_all([last], noisy.splits["test"], SYSTEM.score)[last.name].metrics
    assert last.kind == "baseline" and 0 < found["acceleration_error_percent"] < 0.1 and found["theta_deg"] < 1e-6
