"""What a results page shows: one line a run, one deciding baseline, one count, narrow tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from thesis_surrogates.core.plots import loss_curves
from thesis_surrogates.running import results

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
