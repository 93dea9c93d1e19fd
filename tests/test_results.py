"""What a results page shows: one line a run, one deciding baseline, one count, narrow tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from thesis_surrogates.core.comparison import deciding_baseline
from thesis_surrogates.core.plots import loss_curves
from thesis_surrogates.running import reports, results
from thesis_surrogates.running.overview import runs_sentence
from thesis_surrogates.running.registry import get_system
from thesis_surrogates.tracks.study import page

FOLDER = results.published_folder(Path(__file__).parent)
OTHERS = ("orbits", "flavor", "events")


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
