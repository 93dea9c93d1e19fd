"""Guards of the metrics: quantiles, bootstrap coverage, curve questions, the comparison."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thesis_surrogates.core.comparison import Contender, Scores, evaluate_all, score_all
from thesis_surrogates.core.metrics import (
    bootstrap_interval,
    epoch_to_fraction,
    median_and_spread,
    overfit_flag,
    quantile_summary,
)
from thesis_surrogates.core.timing import seconds_per_call

FINITE = st.floats(-1e6, 1e6)


@given(arrays(np.float64, st.integers(1, 60), elements=FINITE))
@settings(max_examples=60, deadline=None)
def test_summary_is_ordered_and_inside(values):
    found = quantile_summary(values, "e", "mm")
    assert list(found) == ["e_mean_mm", "e_median_mm", "e_p95_mm", "e_p99_mm", "e_max_mm"]
    assert (
        values.min()
        <= found["e_median_mm"]
        <= found["e_p95_mm"]
        <= found["e_p99_mm"]
        <= found["e_max_mm"]
        == values.max()
    )
    assert values.min() - 1e-6 <= found["e_mean_mm"] <= values.max() + 1e-6


def test_summary_without_unit_of_tensors_and_of_infinities():
    torch = pytest.importorskip("torch")
    assert quantile_summary(torch.arange(5.0).reshape(5, 1), "e")["e_median"] == 2.0
    assert quantile_summary([1.0, math.inf], "e")["e_max"] == math.inf
    with pytest.raises(ValueError, match="no values"):
        quantile_summary([], "e")


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.exponential(1.0, 80), seed=trial, n=200)
        hits += low <= 1.0 <= high
    assert 0.58 <= hits / 200 <= 0.76


def test_bootstrap_is_reproducible_and_knows_other_statistics():
    values = np.random.default_rng(1).normal(3.0, 1.0, 500)
    assert bootstrap_interval(values, np.median, seed=4, n=200) == bootstrap_interval(values, np.median, seed=4, n=200)
    low, high = bootstrap_interval(values, np.median, n=200, level=0.95)
    assert low < 3.0 < high and high - low < 0.4
    for bad in ({"values": []}, {"values": [1.0], "level": 1.5}):
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval(**bad)


@pytest.mark.parametrize(
    ("curve", "scale", "expected"),
    [
        ([], "linear", None),
        ([1.0], "linear", None),
        ([1.0, 2.0], "linear", None),
        ([math.nan, math.nan], "linear", None),
        ([1.0, 0.0], "linear", 1),
        ([math.nan, 1.0, 0.05, 0.0], "linear", 2),
        ([1.0, math.inf, 0.1, 0.01], "log", 3),
        ([-1.0, -2.0, -3.0], "linear", 2),
    ],
)
def test_epoch_to_fraction(curve, scale, expected):
    assert epoch_to_fraction(curve, 0.9, scale) == expected


def test_epoch_to_fraction_in_decades_needs_positive_losses():
    with pytest.raises(ValueError, match="positive"):
        epoch_to_fraction([1.0, -1.0], scale="log")


def test_overfit_flag():
    epochs = np.arange(60)
    falling = np.exp(-epochs / 10)
    assert not overfit_flag(falling, falling + 0.02 * np.random.default_rng(0).normal(size=60) * falling)
    assert overfit_flag(falling, 0.5 + np.abs(epochs - 20) / 100)
    assert not overfit_flag([1.0, 2.0], [1.0, 5.0])
    assert not overfit_flag(falling[:10], np.full(10, math.nan))
    with pytest.raises(ValueError, match="epochs"):
        overfit_flag([1.0], [1.0, 2.0])


def test_spread():
    assert str(median_and_spread([2.0])) == "2" and str(median_and_spread([1, 2, 4])) == "2 [1, 4]"
    assert math.isnan(median_and_spread([1.0, math.nan]).median)
    with pytest.raises(ValueError, match="at least one"):
        median_and_spread([])


def contender(name, kind="baseline", **kwargs):
    return Contender(name=name, kind=kind, predict=lambda tensors: {"y": tensors["x"]}, **kwargs)


def score(predictions, truth):
    return Scores(metrics={"error_mm": float(np.abs(predictions["y"] - truth["x"]).max())})


def test_comparison_times_what_it_should():
    tensors = {"x": np.arange(10.0)}
    timed = contender("timed", timed=lambda tensors: time.sleep(0.02))
    rows = evaluate_all([contender("plain"), timed], tensors, score, items=10)
    assert [row["contender"] for row in rows] == ["plain", "timed"]
    assert 2000 <= rows[1]["cost_us"] < 20000 and rows[0]["cost_us"] < 100 and rows[0]["error_mm"] == 0.0
    known = {name: Scores(metrics={"error_mm": 7.0}) for name in ("plain", "timed")}
    assert evaluate_all([contender("plain")], tensors, score, items=10, scores=known)[0]["error_mm"] == 7.0


def test_comparison_refuses_twins_and_no_items():
    with pytest.raises(ValueError, match="two contenders"):
        score_all([contender("a"), contender("a")], {"x": np.zeros(1)}, score)
    with pytest.raises(ValueError, match="at least one item"):
        evaluate_all([contender("a")], {"x": np.zeros(1)}, score, items=0)


def test_predictions_run_without_gradients_but_may_ask_for_them():
    torch = pytest.importorskip("torch")
    weight = torch.ones(1, requires_grad=True)
    states = []

    def predict(tensors):
        states.append((weight * 2).requires_grad)
        with torch.enable_grad():
            gradient = torch.autograd.grad((weight * tensors["x"].sum()).sum(), weight)[0]
        return {"y": tensors["x"], "gradient": gradient}

    found = score_all(
        [Contender(name="a", kind="surrogate", predict=predict)],
        {"x": torch.ones(3)},
        lambda p, t: Scores(metrics={"g": float(p["gradient"])}),
    )
    assert states == [False] and found["a"].metrics["g"] == 3.0


def test_slow_calls_are_not_repeated_beyond_the_budget():
    calls = []
    seconds = seconds_per_call(lambda: (calls.append(0), time.sleep(0.05)), repeats=50, budget=0.2)
    assert 0.05 <= seconds < 0.2 and len(calls) <= 7


def test_importing_metrics_does_not_load_torch():
    code = "import sys, thesis_surrogates.core.metrics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
