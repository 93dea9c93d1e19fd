"""What a results page shows: one line a run, one deciding baseline, one count, narrow tables."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from thesis_surrogates.core import publishing
from thesis_surrogates.core.comparison import pareto_front
from thesis_surrogates.core.facts import KINDS
from thesis_surrogates.core.plots import axis_label, loss_curves
from thesis_surrogates.core.verdict import Terms, decide, name_of, verdict_sentence
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
    runs = results.suite_runs(system, "comparison", FOLDER)
    monitor = runs[0].last_event("start").get("monitor", "loss")
    figure, drawn = loss_curves(results.scalars_of(runs), monitor)
    lines = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata())]
    assert lines and all((line[1:] > line[:-1]).all() for line in lines)
    with_curve = sum(len(run.scalars) > 0 for run in runs)
    assert drawn.run.nunique() == with_curve > len(figure.axes[0].get_legend().texts)


@pytest.mark.parametrize("system", results.SYSTEMS)
def test_table_and_verdict_name_the_same_methods(system):
    glance, table = results.summary(FOLDER), results.summary_suite_table(system, FOLDER)
    record = get_system(system)
    text = results.verdict(table, record.terms, record.item)
    named = glance[glance.system == system]
    for row in named[named.kind.isin(("nothing", "baseline"))].itertuples():
        assert str(row.contender) in text
    pairing = decide(table, record.terms).pairing
    assert pairing is None or pairing.baseline is None or name_of(pairing.baseline) in set(named.contender)
    assert set(named.contender[named.kind == "baseline"]) <= set(
        reports.deciding_rows(table, record.terms).apply(name_of, axis=1)
    )


@pytest.mark.parametrize("system", results.SYSTEMS)
def test_the_verdict_is_the_first_sentence_everywhere(system):
    """Home page, results page and report say the same, in the same words, before anything else."""
    record, table = get_system(system), results.summary_suite_table(system, FOLDER)
    found = results.verdict(table, record.terms, record.item).split("\n\n")
    home = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))
    page_of = next((ROOT / "nbs/07_results").glob(f"*_{system}.ipynb"))
    cells = json.loads(page_of.read_text(encoding="utf-8"))["cells"]
    for _, group in table.groupby("data", sort=False):  # data sets apart
        first = verdict_sentence(decide(group, record.terms), group, record.terms, record.item)
        assert any(paragraph.startswith(first) for paragraph in found)
        assert f"- *{system}*: {first}" in results.summary_markdown(FOLDER)
        assert any(first in "".join(part) for cell in home["cells"] for part in stored_texts(cell))
        paragraphs = ["".join(part).split("\n\n") for cell in cells for part in stored_texts(cell)]
        assert any(one.startswith(first) for some in paragraphs for one in some)


def stored_texts(cell):
    return [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", [])]


def methods(*rows):
    names = ("contender", "kind", "implementation", "error", "cost_us", "error_high")
    return pd.DataFrame([dict(zip(names, row, strict=False)) for row in rows]).assign(status="done", data="a")


TOY = Terms(headline="error", columns=("error",))
IDLE = ("idle", "nothing", "", 9.0, 0.001)


def test_of_equally_exact_methods_the_cheaper_decides():
    others = methods(IDLE, ("slow", "baseline", "c", 0.0, 3.0), ("quick", "baseline", "c", 0.0, 1.0))
    table = pd.concat([others, methods(("net", "surrogate", "", 0.5, 2.0))], ignore_index=True)
    assert decide(table, TOY).pairing.baseline.contender == "quick"


def test_a_reference_is_neither_winner_nor_baseline():
    """What made the labels is exact and cheap, and decides nothing."""
    rows = [
        IDLE,
        ("law", "reference", "", 0.0, 0.0),
        ("rk", "baseline", "c", 0.2, 4.0),
        ("net", "surrogate", "", 0.1, 1.0),
    ]
    found = decide(methods(*rows), TOY)
    assert found.outcome == "pays" and found.pairing.baseline is None


def test_a_difference_inside_the_spread_is_a_tie_that_the_cheaper_wins():
    rows = [IDLE, ("rk", "baseline", "c", 0.11, 0.5), ("net", "surrogate", "", 0.1, 1.0, 0.12)]
    assert decide(methods(*rows), TOY).outcome == "does not pay"
    sharp = [*rows[:2], ("net", "surrogate", "", 0.1, 1.0, 0.105)]
    assert decide(methods(*sharp), TOY).outcome == "pays"


def test_other_prices_cannot_turn_a_verdict():
    table = methods(IDLE, ("bins", "baseline", "c", 0.1, 1.0), ("net", "surrogate", "", 0.1, 9.0)).assign(
        bits=[0, 27, 8]
    )
    assert decide(table, replace(TOY, price="bits")).outcome == "pays"
    assert decide(table, TOY).outcome == "does not pay"


def test_older_facts_are_read_with_todays_kinds_and_never_rewritten(tmp_path):
    """The list of the record says which of the old classical methods are references."""
    stored = (FOLDER / "orbits/comparison/baselines.jsonl").read_text(encoding="utf-8")
    assert '"classical"' in stored
    kinds = results.published_table("orbits", FOLDER, "comparison").set_index("contender").kind
    assert kinds["Kepler"] == kinds["DOP853"] == "reference" and "classical" not in set(kinds)
    copied = shutil.copytree(FOLDER / "orbits/comparison", tmp_path / "orbits/comparison")
    runs, _ = results.read_system("orbits", tmp_path)
    publishing.write_suite(copied, runs)
    assert (copied / "baselines.jsonl").read_text(encoding="utf-8") == stored
    assert set(results.published_table("events", FOLDER).set_index("contender").kind["identity"].split()) == {
        "reference"
    }


def test_a_page_names_a_kind_that_it_does_not_know():
    table = methods(IDLE, ("oracle", "prophet", "", 0.0, 0.0), ("net", "surrogate", "", 0.5, 2.0))
    assert "prophet" not in KINDS and "the kind 'prophet' (of oracle)" in results.unknown_kinds(table).replace("**", "")
    assert results.unknown_kinds(table.head(1)) == "" and decide(table, TOY).outcome == "not decided"


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
    table, headline = results.summary_suite_table(system, FOLDER), get_system(system).terms.headline
    terms = get_system(system).terms
    rows = reports.deciding_rows(table, terms)
    first = rows.kind.tolist().index("surrogate")
    front = pareto_front(table[table.kind == "baseline"], headline, terms.price)
    assert 1 <= first <= 6 and set(rows.contender[rows.kind == "baseline"]) <= set(front.contender)
    head, *cells = reports.deciding_table(table, terms, bold=lambda text: f"**{text}**")
    assert head[0] == "contender" and len(head) <= 8
    bold = [row[0] for row in cells if row[0].startswith("**")]
    found = rows[rows.kind == "surrogate"].groupby("data", sort=False)[headline].idxmin()  # one for each data set
    assert bold[0] == f"**{rows.contender[first]}**" and bold == [f"**{rows.contender[best]}**" for best in found]


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
        first, *rest = results.table_markdown(table, record.terms.columns, record.terms.headline).split("\n\n")
        assert first.startswith(f"| contender | {axis_label(record.terms.headline)} | kind |")
        shown = {name for part in (first, *rest) for name in part.splitlines()[0].strip("| ").split(" | ")}
        assert shown >= {axis_label(name) for name in record.terms.columns}


def test_a_table_of_tracks_has_its_headline_second():
    assert page.SUITES[:1] == ("frontier",)
    for suite, title in (("frontier", "mean [µm]"), ("variable_legs", "median [µm]")):
        table = results.published_table("tracks", FOLDER, suite)
        head = short_table(table, headline=page.headline_of(suite)).splitlines()[0].strip("| ").split(" | ")
        assert head[1] == title and len(head) == 8
