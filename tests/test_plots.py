"""The figure that decides: nothing vanishes from it, and its names can be read."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import pandas as pd
import pytest
import seaborn

from thesis_surrogates.core.convergence import error_curves
from thesis_surrogates.core.cost_figure import accuracy_cost
from thesis_surrogates.core.plots import MANY_RUNS, loss_curves, style
from thesis_surrogates.running import overview

EXACT = [("idle", "nothing", 1.0, 9.0), ("law", "baseline", 0.0, 5.0), ("net", "surrogate", 0.1, 1.0)]
CLOSE = [("closure", "surrogate", 0.0103, 6.6), ("guaranteed", "surrogate", 0.0111, 8.0)]
CLOSE += [("scheme", "baseline", 0.0005, 54.0), ("idle", "nothing", 0.09, 0.1)]
CROWD = [("k-means 512", "baseline", 75.1, 74.3), ("k-means 512 momenta", "baseline", 67.4, 67.7)]
CROWD += [("vq_types", "surrogate", 72.0, 130.0), ("vq_momenta", "surrogate", 61.0, 118.0)]
CROWD += [("bins", "baseline", 120.0, 3.3), ("identity", "surrogate", 4.0, 75.0)]
EDGE = [("left_of_all", "surrogate", 1.0, 1.0), ("far_above", "baseline", 300.0, 200.0)]


def table_of(rows):
    return pd.DataFrame(rows, columns=["contender", "kind", "error", "cost_us"]).assign(data="a", status="done")


def test_a_method_without_error_lies_on_a_floor_that_is_named():
    figure, drawn = accuracy_cost(table_of(EXACT))
    axes = figure.axes[0]
    assert {"law", "exact"} <= {text.get_text() for text in axes.texts} and not axes.get_title(loc="left")
    assert drawn.error[drawn.contender == "law"].tolist() == [0.0]
    (point,) = (line for line in axes.lines if list(line.get_xdata()) == [5.0])
    low, high = axes.get_ylim()
    assert low < point.get_ydata()[0] < 0.1 < high


def test_without_an_exact_method_there_is_no_floor():
    texts = accuracy_cost(table_of(EXACT[::2]))[0].axes[0].texts
    assert "exact" not in [text.get_text() for text in texts]


def test_an_exact_method_is_drawn_beside_other_systems(monkeypatch):
    points = overview.relative_points(table_of(EXACT), "error")
    assert points.error[points.kind == "baseline"].tolist() == [0.0]
    monkeypatch.setattr(overview, "SYSTEMS", ["orbits"])
    monkeypatch.setattr(overview, "summary_suite_table", lambda *_: table_of(EXACT).rename(columns={"error": HEADLINE}))
    axes = overview.overview_figure(None).axes[0]
    assert "exact" in [text.get_text() for text in axes.texts]
    assert any(list(line.get_xdata()) == [5.0] for line in axes.lines)


HEADLINE = overview.get_system("orbits").terms.headline


@pytest.mark.parametrize("rows", [CLOSE, CROWD, EDGE, [*CLOSE[:3], *EXACT]], ids=["close", "crowd", "edge", "exact"])
def test_names_stand_beside_each_other_and_inside(rows):
    names = check_names(accuracy_cost(table_of(rows))[0])
    assert names >= {name for name, *_ in rows}


def test_names_at_the_ends_of_curves_stand_beside_each_other():
    ends = [("mlp", 4e5, 190.0), ("rk_pinn", 5e5, 200.0), ("pinn", 4e5, 480.0)]
    rows = [(name, size / k, k * error) for name, size, error in ends for k in (1, 5, 25)]
    table = pd.DataFrame(rows, columns=["model", "parameters", "error"])
    table = table.assign(error_low=table.error, error_high=table.error)
    assert check_names(error_curves(table, "parameters", "error", "parameters", "error")[0]) == {
        "mlp",
        "rk_pinn",
        "pinn",
    }


def check_names(figure):
    """No name of the figure lies over another one or is cut; all names."""
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), f"{one} lies over {other}"
    for name, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{name} is cut"
    return set(boxes)


def test_the_look_is_the_style_ticks_of_seaborn_without_loading_it():
    own = {"text.color", "font.family", "image.cmap", "grid.color", "figure.facecolor"} | {
        f"{axis}tick.color" for axis in "xy"
    }
    own |= {f"axes.{name}" for name in ("edgecolor", "labelcolor", "facecolor", "grid", "spines.top", "spines.right")}
    theirs = {key: value for key, value in seaborn.axes_style("ticks").items() if key not in own}
    with style():
        ours = dict(matplotlib.rcParams)
    assert {key: ours[key] for key in theirs} == theirs and len(theirs) > 12


def test_curves_of_many_runs_are_all_drawn_and_drawn_at_once():
    """A line for each of a thousand runs took most of the time of a report."""
    rows = [
        (f"run{run}", f"mlp{run % 3}", split, epoch, 1.0 / (1 + epoch + run))
        for run in range(MANY_RUNS + 1)
        for split in ("train", "validation")
        for epoch in range(3)
    ]
    table = pd.DataFrame(rows, columns=["run", "group", "split", "epoch", "value"]).assign(metric="loss")
    figure, drawn = loss_curves(table)
    (axes,) = figure.axes
    assert len(axes.lines) == 0 and [len(one.get_segments()) for one in axes.collections] == [MANY_RUNS + 1] * 2
    assert len(drawn) == len(rows) and axes.get_yscale() == "log"
    assert axes.get_xlim()[1] >= 2 and axes.get_ylim()[0] <= drawn.value.min() < drawn.value.max() <= axes.get_ylim()[1]
    few, _ = loss_curves(table[table.run.isin([f"run{k}" for k in range(3)])])
    assert len(few.axes[0].lines) == 6
