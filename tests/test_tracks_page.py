"""The parts of the results page of tracks, on small tables: who stands for a suite, what is bold, what is written where
nothing is.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from thesis_surrogates.tracks.metrics import GOALS
from thesis_surrogates.tracks.study import page

FIRST = page.headline_of("frontier")


def row(contender, error, kind="surrogate", seeds=3, status="done", **more):
    scores = {name: goal * error for name, goal in GOALS["frontier"].items()}  # errors in units of the goals
    common = {"contender": contender, "kind": kind, "seeds": seeds, "status": status, "parameters": 1000.0}
    rest = {f"position_{name}_mm": error for name in ("mean", "median", "p95", "p99")} | {"slope_mean": error}
    return {**common, **rest, **scores, "cost_us": 1.0, "training_seconds": 10.0, "note": "", "data": "x", **more}


def study_of(*rows):
    tables = dict.fromkeys(page.SUITES, pd.DataFrame()) | {"frontier": pd.DataFrame(rows)}
    return page.Study(tables=tables, runs=dict.fromkeys(page.SUITES, ()), verdict=lambda table, headline: "")


def names(*args):
    return [one["contender"] for one in page.chosen_rows(*args)]


def test_the_best_and_the_best_with_seeds_stand_for_a_suite():
    study = study_of(row("net", 0.5), row("polynomial 4", 0.2, seeds=1), row("failed", 0.1, status="failed"))
    assert names(study, "frontier", pd.DataFrame()) == ["polynomial 4", "net"]


def test_the_one_that_saves_most_meets_all_goals():
    study = study_of(row("a", 0.1), row("b", 0.9), row("c", 1.5))
    paid = pd.DataFrame({"many": {"a": 1.0, "b": 5.0, "c": 50.0}})
    assert names(study, "frontier", paid) == ["a", "b"], "c saves more and misses its goals"
    assert names(study, "frontier", paid.drop("b")) == ["a"], "what was not timed saves nothing"


def test_tables_of_the_axis_are_shown_where_nothing_learned_is_better():
    tables = row("axis tables", 0.3, kind="baseline", seeds=1)
    assert names(study_of(row("net", 0.5), tables), "frontier", pd.DataFrame()) == ["net", "axis tables"]
    assert names(study_of(row("net", 0.2), tables), "frontier", pd.DataFrame()) == ["net"]


def test_goals_that_are_met_are_bold():
    text = page.goals_markdown(study_of(row("net", 0.5), row("poor", 2.0)))
    line = next(line for line in text.splitlines() if "net (3)" in line)
    assert line.count("**") == 2 * len([name for name in GOALS["frontier"]]) and "poor" not in text
    assert "Not published yet: " in text and "frontier" not in text.split("Not published yet: ")[1]


def test_nothing_published_is_said_and_nothing_fails():
    empty = page.Study(
        tables=dict.fromkeys(page.SUITES, pd.DataFrame()),
        runs=dict.fromkeys(page.SUITES, ()),
        verdict=lambda table, headline: "",
    )
    for part in (page.longer_markdown, page.sizes_markdown, page.core_markdown):
        assert part(empty).startswith("*Not published")
    assert page.suite_frontier(empty, "frontier") is page.longer_figure(empty) is None
    assert page.savings_markdown(pd.DataFrame()) == "*Nothing published.*"
    assert "0 published runs" in page.opening_markdown(empty, "Why?") and page.all_tables(empty).empty


@pytest.mark.parametrize("value, text", [(2.54, "**2.5**"), (1.0, "1"), (0.031, "0.031"), (float("nan"), "–")])
def test_a_ratio_above_one_is_bold_and_a_saving_over_scalar_loops_is_not_decided(value, text, monkeypatch):
    assert page.ratio_cell(value, "one track, C++") == (text if not value > 1 else "not decided, scalar only")
    monkeypatch.setattr(page, "RUNTIMES", replace(page.RUNTIMES, strong=("C++",)))
    assert page.ratio_cell(value, "one track, C++") == text
