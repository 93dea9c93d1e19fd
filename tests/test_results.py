"""What a results page shows: one line a run, one deciding baseline, one count, narrow tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from thesis_surrogates.core.comparison import deciding_baseline, pareto_front
from thesis_surrogates.core.plots import axis_label, loss_curves
from thesis_surrogates.running import reports, results
from thesis_surrogates.running.overview import runs_sentence
from thesis_surrogates.running.registry import get_system
from thesis_surrogates.tracks.study import page
from thesis_surrogates.tracks.study.tables import short_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = results.published_folder(ROOT)
OTHERS = [name for name in results.SYSTEMS if name != "tracks"]  # tracks has a page of its own form


@pytest.mark.parametrize("system", OTHERS)
def test_a_line_of_the_loss_figure_is_one_run(system):
    """Seeds of one name joined to one line would run backwards where the next seed begins."""
    runs = results.published_runs(system, FOLDER)
    monitor = runs[0].last_event("start").get("monitor", "loss")
    figure, drawn = loss_curves(results.scalars_of(runs), monitor)
    lines = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata())]
    assert lines and all((line[1:] > line[:-1]).all() for line in lines)
    with_curve = sum(len(run.scalars) > 0 for run in runs)
    assert drawn.run.nunique() == with_curve > len(figure.axes[0].get_legend().texts)


@pytest.mark.parametrize("system", results.SYSTEMS)
def test_table_and_verdict_name_the_same_baseline(system):
    glance, table = results.summary(FOLDER), results.summary_suite_table(system, FOLDER)
    record = get_system(system)
    text = results.verdict(table, record.headline, record.item)
    for row in glance[(glance.system == system) & (glance.kind != "surrogate")].itertuples():
        assert str(row.contender) in text
    decisive = glance[(glance.system == system) & (glance.kind == "classical")].contender
    assert set(decisive) <= set(reports.deciding_rows(table, record.headline).contender)


def test_of_equally_exact_methods_the_cheaper_decides():
    errors = {"slow": (0.0, 3.0), "quick": (0.0, 1.0), "coarse": (0.5, 0.1)}
    rows = pd.DataFrame([{"contender": name, "error": e, "cost_us": c} for name, (e, c) in errors.items()])
    names = [deciding_baseline(rows, "error", error).contender for error in (1.0, 0.1, -1.0)]
    assert names == ["coarse", "quick", "quick"]
    assert deciding_baseline(rows.head(0), "error", 1.0) is None


def test_all_pages_count_the_same_runs():
    """A run that belongs to two suites is one run."""
    runs = {suite: results.suite_runs("tracks", suite, FOLDER) for suite in page.SUITES}
    study = page.Study(tables={"frontier": pd.DataFrame()}, runs=runs, verdict=lambda table, headline: "")
    number = len(results.published_runs("tracks", FOLDER))
    assert sum(map(len, runs.values())) > number
    texts = (page.opening_markdown(study, ""), page.measured_markdown(runs), runs_sentence(FOLDER))
    assert f" {number} published runs" in texts[0]
    assert texts[1].startswith(f"{number} published runs") and f"tracks {number}," in texts[2]


@pytest.mark.parametrize("system", results.SYSTEMS)
def test_a_report_begins_with_few_rows_of_the_frontier(system):
    """Nobody reads forty baselines before the first surrogate."""
    table, headline = results.summary_suite_table(system, FOLDER), get_system(system).headline
    rows = reports.deciding_rows(table, headline)
    first = rows.kind.tolist().index("surrogate")
    front = pareto_front(table[table.kind == "classical"], headline)
    assert 2 <= first <= 4 and set(rows.contender[rows.kind == "classical"]) <= set(front.contender)
    head, *cells = reports.deciding_table(table, headline, bold=lambda text: f"**{text}**")
    assert head[0] == "contender" and len(head) <= 8
    bold = [row[0] for row in cells if row[0].startswith("**")]
    assert bold == [f"**{rows.contender[first]}**"]


def test_the_report_shows_the_short_table_first():
    template = json.loads((ROOT / "nbs/experiments/report.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in template["cells"])
    assert 0 < text.index("deciding_table(") < text.index('"accuracy_cost*.png"') < text.index('"table.md"')


def comparison_heads():
    """Heads of the stored comparison tables of all results pages."""
    for path in sorted((ROOT / "nbs/07_results").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in (output for cell in cells for output in cell.get("outputs", [])):
            text = "".join(output.get("data", {}).get("text/markdown", ""))
            for head in re.findall(r"^\| *(contender.*|kind.*contender.*) \|\n\|-", text, re.MULTILINE):
                yield path.stem, head.split(" | ")


def test_contender_and_headline_come_first_and_a_table_is_narrow():
    heads = list(comparison_heads())
    assert {name.partition("_")[2] for name, _ in heads} >= set(results.SYSTEMS)
    for page_name, head in heads:
        assert len(head) <= 8, f"{page_name}: {head}"
    for system in OTHERS:
        record = get_system(system)
        table = results.published_table(system, FOLDER)
        first, *rest = results.table_markdown(table, record.columns, record.headline).split("\n\n")
        assert first.startswith(f"| contender | {axis_label(record.headline)} | kind |")
        shown = {name for part in (first, *rest) for name in part.splitlines()[0].strip("| ").split(" | ")}
        assert shown >= {axis_label(name) for name in record.columns}


def test_a_table_of_tracks_has_its_headline_second():
    assert page.SUITES[:1] == ("frontier",)
    for suite, title in (("frontier", "mean [µm]"), ("variable_legs", "median [µm]")):
        table = results.published_table("tracks", FOLDER, suite)
        head = short_table(table, headline=page.headline_of(suite)).splitlines()[0].strip("| ").split(" | ")
        assert head[1] == title and len(head) == 8
