"""The check of a GPU: one line without one, and its own logic on the processor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
gpu = pytest.importorskip("gpu")


def test_without_a_device_one_line_is_all(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing to run\n"


def test_its_own_logic_on_the_processor():
    found = gpu.measure("tracks", "cpu", rows=[1, 70_000], notebook=False)
    assert found["cpu_then_device"] == {"first": "paused", "then": "done"}
    assert found["exports"]["onnx"] == "checked against PyTorch"
    assert found["rows"][70_000]["rows_per_s"] > 0 and found["rows"][1]["largest_difference_of_spread"] == 0.0
    assert gpu.is_well(found)
    found["rows"][1]["largest_difference_of_spread"] = 0.5
    assert not gpu.is_well(found)


def test_answers_that_differ_are_seen():
    one = torch.linspace(0, 1, 11)[:, None]
    assert gpu.difference([one], [one]) == 0.0 and gpu.difference([one + 0.1], [one]) > 0.1
