"""Figures and tables of a sweep, on made-up facts: equal bytes, nothing hidden, no claim without its runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from command_line import surrogates

from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.plots import LOOKS, save_figure
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.core.report import write_report
from thesis_surrogates.core.sweep_figures import choose_axes, compare, compare_as_asked
from thesis_surrogates.core.sweep_tables import importance
from thesis_surrogates.running.reports import make_reports, read_comparison

ERROR = "rate_error_mm"


def recorded(folder, seed=0, error=0.1, system="rates", metric=ERROR, **model):
    """A run of an invented system with a model and its error; without a result for None."""
    name = "-".join(f"{key}={value}" for key, value in model.items()) + f"-seed={seed}"
    config = {"system": system, "name": name, "seed": seed, "model": {"name": "net", **model}, "train": {"epochs": 3}}
    row = {"contender": "net", "kind": "surrogate", "parameters": 10 * seed + 10, "cost_us": 0.1, metric: error}
    nothing = {"contender": "straight", "kind": "nothing", "parameters": 0, "cost_us": 0.01, metric: 9.0}
    with open_run(folder / name, config, provenance={"data_fingerprint": "d" * 16}) as recorder:
        recorder.event("evaluated", {"rows": [] if error is None else [nothing, row]})
    return read_run(folder / name)


@pytest.fixture
def grid(tmp_path):
    """Width matters by a factor 100, activation by 1.5, a seed by a few percent."""
    return [
        recorded(tmp_path / "runs", seed, (1 + 0.02 * seed) * factor / width, width=width, activation=activation)
        for width in (10, 100, 1000)
        for activation, factor in (("relu", 1.5), ("silu", 1.0))
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"hue": "model.activation", "style": "seed"},
        {"hue": "model.activation", "kind": "box"},
        {"hue": "model.activation", "kind": "violin", "row": "seed"},
        {"hue": "model.activation", "kind": "heat", "col": "seed"},
    ],
    ids=lambda asked: asked.get("kind", "line"),
)
def test_equal_runs_give_equal_bytes_in_any_order(grid, tmp_path, asked):
    def drawn(runs, folder):
        made = compare(runs, "model.width", ERROR, **asked)
        return [path.read_bytes() for path in save_figure(made.figure, tmp_path / folder / "sweep", made.table)]

    assert drawn(grid, "a") == drawn(grid[::-1], "b")


@pytest.mark.parametrize("look", LOOKS)
def test_points_are_the_medians_of_the_table_and_axes_are_logarithmic(grid, look):
    made = compare(grid, "model.width", ERROR, hue="model.activation", look=look)
    axes = made.figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_ylabel() == "rate error [mm]"
    points = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "o"])
    assert sorted(points[np.isfinite(points)]) == pytest.approx(sorted(made.table[ERROR]))
    assert list(made.table.runs) == [3] * 6
    assert made.table[f"{ERROR}_low"].to_numpy() * 1.04 == pytest.approx(made.table[f"{ERROR}_high"].to_numpy())
    assert "up to 3 runs that differ in seed." in made.caption, "and in nothing else"
    two = compare(grid, "model.width", ERROR, where={"model.width": [10, 100], "seed": 0}, look=look)
    assert two.figure.axes[0].get_xscale() == "linear", "a factor of ten"
    assert "up to 2 runs that differ in model.activation." in two.caption, "these are no seeds"


def test_runs_without_a_number_are_left_out_and_counted(grid, tmp_path):
    bad = [recorded(tmp_path / "bad", seed, error, width=10) for seed, error in enumerate((None, math.nan, math.inf))]
    made = compare([*grid, *bad], "model.width", ERROR, missing=1)
    assert made.caption.endswith("Left out: 2 runs without a result, 2 runs without a finite value.")
    assert made.table.equals(compare(grid, "model.width", ERROR).table)
    found = importance([*grid, *bad, recorded(tmp_path / "zero", 0, 0.0, width=10)], ERROR)
    assert found.notes[-1] == "Left out: 1 run without a result, 3 runs without a positive value."
    with pytest.raises(ConfigError, match="no run to draw. Left out: 1 run without a result"):
        compare(bad[:1], "model.width", "seconds")


def test_what_is_not_there_is_answered_by_its_nearest(grid):
    for asked, answer in {
        ("x=model.widht", "y=seconds"): "x=model.widht: .* did you mean 'model.width'",
        ("x=width", "y=seconds"): "did you mean 'model.width'",
        ("x=seed", "y=rate_eror_mm"): f"did you mean '{ERROR}'",
        ("x=seed", "y=seconds", "where.model.activation=rel"): "did you mean 'relu'",
        ("x=seed", "y=seconds", "colum=seed"): "did you mean 'col'",
        ("x=seed", "y=seconds", "kind=boxes"): "did you mean 'box'",
        ("x=seed", "y=seconds", "kind=heat"): "hue is missing",
        ("x=seed", "y=seconds", "kind=box", "style=seed"): "only a line has a dash",
        ("x=seed", "y=seed"): "is on another axis already",
        ("x=seed", "y=model.activation"): "is drawn as a number, and has relu, silu",
        ("y=seconds",): "x is missing",
    }.items():
        with pytest.raises(ConfigError, match=answer):
            compare_as_asked(grid, read_comparison(asked))
    for word in ("x", "x=", "=seed", "where.seed=[0"):
        with pytest.raises(ConfigError, match="write it as name=value"):
            read_comparison([word])
    with pytest.raises(ConfigError, match="no runs to compare"):
        compare([], "seed", "seconds")


def test_main_effects_are_in_order_and_have_an_interval(grid):
    found = importance(grid, ERROR)
    table = found.table.set_index("key")
    assert list(table.index) == ["model.width", "model.activation"] and list(table.ratio) == pytest.approx([100, 1.5])
    assert (table.low < table.ratio).all() and (table.ratio < table.high).all()
    assert table.loc["model.width", ["values", "best", "worst", "runs"]].tolist() == [3, "1000", "10", 18]
    assert found.table.equals(importance(grid[::-1], ERROR).table), "the draws do not depend on the order of the runs"
    assert "2 keys have one value in all runs, and no row." in found.notes
    assert choose_axes(found, grid) == {"x": "model.width", "y": ERROR, "kind": "line", "hue": "model.activation"}


def test_confounded_keys_and_an_incomplete_design_are_named(tmp_path):
    runs = [
        recorded(tmp_path, seed, 1 / width, width=width, depth=depth, **extra)
        for width, depth, extra in ((8, 2, {}), (16, 4, {}), (16, 4, {"dropout": 0.1}), (32, 6, {"dropout": 0.1}))
        for seed in (0, 1)
    ]
    found = importance(runs, ERROR)
    assert found.table.key[0] == "model.width" and found.table.together[0] == "model.depth"
    notes = " ".join(found.notes)
    assert "model.width, model.depth always change together" in notes
    assert "4 of 6 combinations of these values were run" in notes
    one = importance([run for run in runs if run.config["seed"] == 0], ERROR)
    assert one.table.set_index("key").low.isna()["model.width"] and "a single run" in one.notes[1]
    assert set(compare(runs, "model.dropout", ERROR, kind="box").table["model.dropout"].map(str)) == {"nan", "0.1"}
    labels = [
        text.get_text() for text in compare(runs, "model.dropout", ERROR, kind="box").figure.axes[0].get_xticklabels()
    ]
    assert labels == ["0.1", "none"], "a key that a run lacks has a place of its own"
    assert importance(runs[:2], ERROR).table.empty and choose_axes(importance(runs[:2], ERROR), runs[:2]) == {}


def test_models_with_keys_of_their_own_are_no_sweep(tmp_path):
    """Such keys would get factors that are those of the models."""
    own = ({"width": 8, "rate": 0.1}, {"degree": 4}, {"width": 16, "dropout": 0.2})
    runs = [recorded(tmp_path, 0, 10.0**-number, **keys) for number, keys in enumerate(own)]
    found = importance(runs, ERROR)
    assert len(found.table) and not found.table.alone.any()
    assert "|" not in found.markdown() and "model.degree" in found.markdown()
    again = recorded(tmp_path, 0, 3.0, width=8, rate=0.5)
    table = importance([*runs, again], ERROR).table
    assert list(table[table.alone].key) == ["model.rate"]


def test_a_report_has_them_only_where_something_was_swept(grid, tmp_path):
    plain = write_report(grid[:3], tmp_path / "plain", [ERROR], ERROR, "Seeds")
    assert plain.sweep == "" and not list((tmp_path / "plain").glob("sweep*"))
    assert not (tmp_path / "plain" / "importance.csv").exists()
    swept = write_report([*grid, tmp_path / "gone"], tmp_path / "swept", [ERROR], ERROR, "Sweep")
    assert {"sweep.md", "sweep.png", "sweep.csv", "importance.csv"} <= {file.name for file in swept.files}
    assert "| model.width | 3 | 1000 | 10 | 100 [" in swept.sweep and "Left out: 1 run without a result." in swept.sweep
    asked = {"x": "seed", "kind": "box", "where": {"model.width": 10}}
    dark = write_report(grid, tmp_path / "dark", [ERROR], ERROR, "Sweep", look="dark", comparison=asked)
    assert "Only model.width = 10." in dark.sweep
    for name in ("sweep.png", "accuracy_cost.png"):
        assert (tmp_path / "dark" / name).read_bytes() != (tmp_path / "swept" / name).read_bytes()
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        write_report(grid, tmp_path / "wrong", [ERROR], ERROR, "Sweep", look="papr")
    with pytest.raises(ConfigError, match="did you mean 'dark'"):
        make_reports("outputs", style="drak")


def test_the_command_line_draws_what_it_is_asked_for(tmp_path):
    for width in (10, 1000):
        for seed in (0, 1):
            recorded(tmp_path / "runs", seed, (1 + seed) / width, "tracks", "position_mean_mm", width=width)
    words = ("report", "runs", "--style", "dark", "--compare")
    answer = surrogates(*words, "x=seed", "--compare", "where.model.width=10", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    report = tmp_path / "outputs/reports/tracks-runs"
    assert (report / "sweep.csv").read_text().splitlines()[0].startswith("seed,position_mean_mm,")
    assert "| model.width | 2 | 1000 | 10 | 100 [" in (report / "sweep.md").read_text()
    shown = json.dumps(json.loads((report / "report.ipynb").read_text())["cells"])
    assert "What the swept keys change" in shown and "Only model.width = 10." in shown
    answer = surrogates(*words, "x=sed", cwd=tmp_path)
    assert answer.returncode == 2 and "did you mean 'seed'?" in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr
    answer = surrogates(*words, "x=seed", "hue=model.width", cwd=tmp_path)
    assert answer.returncode == 2 and "write --compare hue=model.width" in answer.stderr
