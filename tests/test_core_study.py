"""What every system can read from its runs, on facts of an invented system: convergence, costs, frontier, trust."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_up import epoch_end

from thesis_surrogates.core.comparison import pareto_front
from thesis_surrogates.core.convergence import (
    UNANSWERED,
    convergence_speed,
    describe_runs,
    find_overfitting,
    fit_power_laws,
    pool_seeds,
    ratios_at_equal_size,
    size_pays,
    steps_markdown,
    terms_converge,
    training_budget,
)
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.frontier import Family, FrontierLook, Way, frontier_figure, runtime_frontier
from thesis_surrogates.core.recorder import append_event, open_run
from thesis_surrogates.core.runtimes import RuntimeComparison, costs_markdown, runtime_facts, runtime_table
from thesis_surrogates.core.trust_tables import spread_table, trust_facts
from thesis_surrogates.running.results import approximations_markdown

RATES = RuntimeComparison(
    item="cell",
    errors=("rate_error",),
    classes={"C++": (("header",), ("c++", "library")), "Python": (("eager", "header"), ("numpy",))},
    strong=("Python", "C++"),
)


def recorded(place, name="net", seed=0, losses=(), error=None, parameters=100, train=None, **moments):
    """A run of the system `rates`, with the given losses, result and events."""
    config = {"system": "rates", "name": name, "seed": seed, "model": {"name": name.split("_")[0]}, "data": {}}
    config["train"] = train or {"epochs": len(losses), "steps_per_epoch": None, "batch_size": 10}
    with open_run(place, config, provenance={}) as recorder:
        for epoch, loss in enumerate(losses):
            recorder(epoch_end(epoch, loss, loss, seconds=float(epoch)))
        if error is not None:
            row = {"contender": name, "kind": "surrogate", "parameters": parameters, "cost_us": 1.0}
            recorder.event("evaluated", {"rows": [{**row, "rate_error": error}]})
    for moment, payload in moments.items():
        append_event(place, moment, payload)
    return read_run(place)


def test_runs_without_a_result_or_a_number_do_not_disturb(tmp_path):
    failed = recorded(tmp_path / "0", losses=(1.0, 0.5))
    whole = recorded(tmp_path / "1", losses=(1.0, 0.5), error=0.1)
    table = describe_runs([failed, whole], {"error": "rate_error", "other": "unknown"}, {"width": "model.width"})
    assert len(table) == 1 and table.error[0] == 0.1 and math.isnan(table.other[0]) and table.width[0] is None
    assert math.isnan(table.steps[0]), "whole passes have no fixed number of steps"
    assert training_budget([failed, whole], "cell") == ""


def test_seeds_in_names_are_one_recipe(tmp_path):
    train = {"epochs": 3, "steps_per_epoch": 10, "batch_size": 10}
    runs = [
        recorded(tmp_path / f"{size}{seed}", f"net_{size}-seed={seed}", seed, (1.0, 0.1, 0.01), 1 / size, size, train)
        for size in (10, 40)
        for seed in (0, 1)
    ]
    table = describe_runs(runs, {"error": "rate_error"}, {}).assign(size=lambda rows: rows.name)
    text = size_pays(runs, table, "error", "%", "size")
    assert "a fit to 2 sizes gives error ~ parameters^(-1.00)" in text and "best is *net_40* with 0.025 %" in text
    assert "90 % of the fall takes net_10 100%, net_40 100% of the epochs" in text
    assert convergence_speed(runs).startswith("90 % of the fall is done by *net* after 100% of its epochs")
    assert training_budget(runs, "cell") == "30 steps of 10 cells (4 trainings)"


def test_a_power_law_needs_two_places_and_positive_errors():
    table = pd.DataFrame({"model": ["a"] * 3 + ["b"], "examples": [10, 100, 1000, 10], "error": [1.0, 0.1, 0.0, 1.0]})
    (law,) = fit_power_laws(table, "examples", "error").to_dict("records")
    assert law["model"] == "a" and law["points"] == 2 and law["exponent"] == pytest.approx(-1)
    assert fit_power_laws(table[table.model == "b"], "examples", "error").empty


def test_a_model_is_compared_inside_the_sizes_of_its_baseline():
    table = pd.DataFrame(
        [["plain", 10, 1.0, "s"], ["plain", 1000, 0.01, "l"], ["new", 100, 0.2, "m"], ["new", 5000, 0.001, "xl"]],
        columns=["model", "parameters", "error", "size"],
    )
    ((size, ratio),) = ratios_at_equal_size(table, "new", "plain", "error", "size")
    assert size == "m" and ratio == pytest.approx(2.0)


def test_terms_that_do_not_fall_are_named(tmp_path):
    runs = [recorded(tmp_path / "a", losses=(1.0, 0.01)), recorded(tmp_path / "b", "flat", losses=(1.0, 4.0))]
    text = terms_converge(runs, {"loss": "rate", "missing": "missing"})
    assert "*net rate* falls (by a factor 100" in text and "*flat rate* grows" in text and "missing" not in text
    assert find_overfitting([]) == convergence_speed([]) == terms_converge([], {"loss": "loss"}) == UNANSWERED


def test_lengths_that_a_model_lacks_are_dashes():
    rows = [["a", 100.0, 1.0, 0], ["a", 100.0, 3.0, 1], ["a", 200.0, 1.0, 0], ["b", 200.0, 4.0, 0]]
    pooled = pool_seeds(pd.DataFrame(rows, columns=["model", "steps", "error", "seed"]), ["model", "steps"], "error")
    text = steps_markdown(pooled, "error", {"b": "a", "c": "a"}, "%")
    assert "| a | 2 [1, 3] | 1 [1, 1] |" in text and "| b | – | 4 [4, 4] |" in text
    assert text.endswith("*b* has 4 (200 steps) times the error of *a*.")


def measured(contender, kind, path, cost, error):
    return {
        "contender": contender,
        "kind": kind,
        "path": path,
        "batch": 1,
        "cost_us": cost,
        "parameters": 1,
        "rate_error": error,
    }


def measurement():
    """A table in numpy and in C++, a library in C++ alone, and a network in two runtimes."""
    rows = [measured("table", "baseline", "numpy", 9.0, 0.1), measured("table", "baseline", "c++", 0.5, 0.1)]
    rows += [measured("solver 0.001", "baseline", "library", 4.0, 0.001)]
    rows += [measured("solver 0.1", "baseline", "library", 0.4, 0.3)]
    return [*rows, measured("net", "surrogate", "eager", 20.0, 0.05), measured("net", "surrogate", "header", 1.0, 0.05)]


def test_costs_are_compared_by_the_first_class_of_a_runtime(tmp_path):
    one = recorded(tmp_path / "a", runtimes=runtime_facts(measurement(), "net", {}, RATES.errors))
    table = runtime_table([one], 1, "rate_error", RATES).set_index(["runtime", "against"])
    assert table.loc[("header", "C++"), "ratio"] == 4.0, "the library is accurate enough, the table is not"
    assert np.isinf(table.loc[("eager", "Python"), "ratio"]) and np.isinf(table.loc[("header", "Python"), "ratio"])
    assert costs_markdown(table.reset_index(), RATES).splitlines()[-1] == "| net | **1** | **20** |"
    rows = [row for row in measurement() if row["path"] != "c++"]
    alone = recorded(tmp_path / "b", runtimes=runtime_facts(rows, "net", {}, RATES.errors))
    assert set(runtime_table([alone], 1, "rate_error", RATES).against) == {"Python"}, "a class needs its first path"


def test_the_frontier_of_a_system_without_families_joins_what_nothing_beats(tmp_path):
    rows = pd.DataFrame(measurement()).assign(status="done")
    front = pareto_front(rows[rows.kind == "baseline"], "rate_error")
    assert list(front.cost_us) == [0.4, 0.5, 4.0], "the table in numpy is slower and no better"
    look = FrontierLook(item="cell")
    axes = frontier_figure(rows, "rate_error", {"needed": 0.2}, look).axes[0]
    drawn = [list(line.get_xdata()) for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert drawn == [[0.4, 0.5, 4.0]] and axes.get_xlabel() == "cost per cell [µs]"
    one = recorded(tmp_path / "a", runtimes=runtime_facts(measurement(), "net", {}, RATES.errors))
    figure, table = runtime_frontier([one], "rate_error", {}, look)
    assert len(figure.axes) == 1 and set(table.panel) == {"Python"}


def test_a_family_may_have_two_words_and_a_tolerance():
    rows = [measured(f"stiff solver {t:g}", "baseline", "library", 1 / t, t) for t in (0.1, 0.001, 0.01)]
    table = pd.DataFrame([*rows, measured("net", "surrogate", "eager", 1.0, 0.1)]).assign(status="done")
    family = Family(name="stiff solver", color="#000000", numbered=(0.01,), steps=False)
    look = FrontierLook(item="cell", families=(family,), ways={"library": Way()})
    axes = frontier_figure(table, "rate_error", {}, look).axes[0]
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.01, 0.001], "from the largest tolerance to the smallest"
    assert {"0.01", "stiff solver", "net"} == {text.get_text() for text in axes.texts}


def test_the_best_surrogate_is_first_and_one_without_the_deciding_group_last(tmp_path):
    parts = {
        "a": [("all", 0.3), ("hot", 0.9)],
        "b": [("hot", 0.1)],
        "c": [("all", 0.2), ("hot", 2.0)],
    }
    runs = [
        recorded(tmp_path / name, name, trust=trust_facts({"sums": pd.DataFrame(rows, columns=["region", "p50"])}, {}))
        for name, rows in parts.items()
    ]
    table = spread_table(runs, "sums", ["region"], ["p50"], {"region": "all"})
    assert list(dict.fromkeys(table.surrogate)) == ["c", "a", "b"] and len(table) == 5
    assert spread_table(runs, "other", ["region"], ["p50"], {"region": "all"}).empty


def test_notes_of_older_runs_are_shown_in_the_words_of_today():
    """Published facts stay as they are; only what is shown of them is worded anew."""
    notes = ["from the axis, nothing learned; labels: rk4", "from the axis, untrained; labels: rk4"]
    table = pd.DataFrame({"contender": ["older", "newer"], "note": notes})
    assert approximations_markdown(table).splitlines()[-1] == "- **older, newer**: from the axis, untrained"
