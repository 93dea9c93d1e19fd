"""Scores of baselines that are used again: equal to the last bit, and only for the same data, settings and code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thesis_surrogates.core import known_scores as module
from thesis_surrogates.core.comparison import Contender, Scores, score_all
from thesis_surrogates.core.known_scores import known_scores, read_scores, scores_place, write_scores
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import place_of_scores
from thesis_surrogates.running.registry import get_system, load_suite


def fail(tensors):
    raise AssertionError("computed again")


@pytest.fixture
def judged(system_name, data_dir, tmp_path):
    """System, baselines, data and the place of their scores."""
    config, system = load_suite(f"{system_name}/smoke")[0], get_system(system_name)
    data = system.load_data(config.data, ensure_dataset(system, config.data, data_dir))
    return system, system.baselines(data), data, place_of_scores(system, config, data, tmp_path)


def test_the_second_run_finds_what_the_first_has_computed(judged):
    system, baselines, data, place = judged
    test = data.splits["test"]
    plain = score_all(baselines, test, system.score)
    first = known_scores(baselines, test, system.score, place)
    again = known_scores([replace(one, predict=fail) for one in baselines], test, system.score, place)
    for name, one in plain.items():
        for other in (first[name], again[name]):
            assert np.array_equal(list(one.metrics.values()), list(other.metrics.values()), equal_nan=True)
            assert list(one.metrics) == list(other.metrics) and list(one.samples) == list(other.samples)
            for sample, values in one.samples.items():
                assert other.samples[sample].dtype == values.dtype
                assert np.array_equal(other.samples[sample], values, equal_nan=values.dtype.kind == "f")


ROWS = {"x": torch.arange(4.0)}


@pytest.fixture
def entry(tmp_path):
    """An entry of one method with two metrics and a sample."""
    place = scores_place(tmp_path, "tracks", ROWS, {"fingerprint": "a"})
    write_scores(place, {"line": Scores(metrics={"a_mm": 1.5, "b": float("inf")}, samples={"a_mm": np.arange(1000.0)})})
    assert read_scores(place, ["line"]) is not None
    return place


def test_a_damaged_entry_is_not_believed(entry):
    whole = entry.read_bytes()
    for place in range(40, len(whole), len(whole) // 60):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = read_scores(entry, ["line"])
        assert found is None or found["line"].metrics == {"a_mm": 1.5, "b": float("inf")}
        assert found is None or np.array_equal(found["line"].samples["a_mm"], np.arange(1000.0))
    entry.write_bytes(b"")
    assert read_scores(entry, ["line"]) is None and read_scores(entry, ["circle"]) is None


def test_an_entry_of_other_methods_or_in_another_form_is_made_again(entry):
    assert read_scores(entry, ["line", "circle"]) is None
    np.savez(entry, about=np.array("[]"))
    assert read_scores(entry, ["line"]) is None
    np.savez(entry, about=np.array({"names": ["line"]}, dtype=object))  # a pickle
    assert read_scores(entry, ["line"]) is None


@pytest.mark.parametrize("cause", ["rows", "settings", "code", "threads"])
def test_every_cause_has_a_place_of_its_own(tmp_path, monkeypatch, cause):
    before, rows, settings = scores_place(tmp_path, "tracks", ROWS, {"fingerprint": "a"}), ROWS, {"fingerprint": "a"}
    if cause == "rows":
        rows = {"x": ROWS["x"] + 1e-6}
    elif cause == "settings":
        settings = {"fingerprint": "a", "data": {"limit": 3}}
    elif cause == "code":
        monkeypatch.setattr(module, "LIBRARIES", ("numpy",))
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert scores_place(tmp_path, "tracks", rows, settings) != before


def test_entries_that_older_code_has_left_are_removed(entry):
    old = entry.with_name(entry.name.split("-")[0] + "-" + "0" * 24 + ".npz")
    foreign = entry.with_name("f" * 24 + "-" + "0" * 24 + ".npz")
    for path in (old, foreign):
        path.write_bytes(b"")
    write_scores(entry, {"line": Scores(metrics={"a_mm": 1.5})})
    assert not old.exists() and foreign.exists() and entry.exists()


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").touch()
    method = Contender(name="half", kind="nothing", predict=lambda rows: {"x": rows["x"] / 2})

    def score(predicted, truth):
        return Scores(metrics={"error": float((predicted["x"] - truth["x"]).abs().mean())})

    scores = known_scores([method], ROWS, score, tmp_path / "file" / "entry.npz")
    assert scores["half"].metrics == {"error": 0.75}
