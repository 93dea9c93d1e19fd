"""Small tables of an evaluation: kept in the facts, published once, and overlaid without a figure or a checkpoint."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from made_up import made_up_run

from thesis_surrogates.core.comparison import Contender, Scores, tables_of
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.known_scores import known_scores
from thesis_surrogates.core.overlays import overlay_table, table_names
from thesis_surrogates.core.publishing import publish, read_published
from thesis_surrogates.core.recorder import append_event, fits_table
from thesis_surrogates.core.report import write_report
from thesis_surrogates.core.small_tables import SmallTable, binned_medians, confusion, from_fact, histogram, table_rows
from thesis_surrogates.running.side_by_side import record_together

EDGES = np.linspace(0, 4, 9)


def score(predicted, truth):
    errors = np.abs(predicted["y"].numpy() - truth["y"].numpy())
    return Scores(metrics={"error_mm": float(errors.mean())}, tables={"error": histogram("error_mm", errors, EDGES)})


@pytest.fixture
def runs(tmp_path):
    """Two recipes with two seeds each and their tables; one older run without any."""
    found = []
    for name, width in (("mlp", 0.3), ("kan", 1.5)):
        for seed in (0, 1):
            run = made_up_run(tmp_path / "runs", name, seed, 0, width, "abc", width=width)
            errors = np.abs(np.random.default_rng(seed).normal(size=1000))
            tables = {"error": histogram("error_mm", width * errors, EDGES)}
            rows = table_rows("RK4", "baseline", {"error": histogram("error_mm", [1.0, 2.0], EDGES)})
            rows += table_rows("mlp", "surrogate", tables)
            append_event(run.path, "tabulated", {"split": "test", "rows": rows})
            found.append(read_run(run.path))
    return [*found, made_up_run(tmp_path / "runs", "older", 0, 0, 5.0, "abc", width=5.0)]


def test_all_methods_bring_their_tables_also_from_kept_scores(tmp_path):
    data = {"y": torch.tensor([0.0, 1.0, 9.0])}
    zero, same = (
        Contender(name=name, kind="baseline", predict=lambda tensors, factor=factor: {"y": factor * tensors["y"]})
        for name, factor in (("zero", 0), ("same", 1))
    )
    place = tmp_path / "scores" / "a-b.npz"
    fresh, kept = (known_scores((zero, same), data, score, place) for _ in range(2))
    rows = tables_of((zero, same), kept)
    assert rows == tables_of((zero, same), fresh) and [row["contender"] for row in rows] == ["zero", "same"]
    assert from_fact(rows[0]).frame().share.tolist() == [0, 0.3333, 0, 0.3333, 0, 0, 0, 0, 0, 0.3333]


TABLES = {"events": ["pt residual", "types"], "orbits": ["acceleration by radius", "error of orbits"]}


def test_a_system_without_tables_writes_none_and_others_theirs(smoke_runs, system_name):
    record = smoke_runs(system_name)
    assert table_names([record]) == TABLES.get(system_name, [])
    if system_name == "events":
        assert {row["contender"] for row in record.tabulated} == {row["contender"] for row in record.evaluated}
        assert fits_table(record.last_event("tabulated"))
        types = from_fact(record.tabulated[-1]).frame()
        right = types[types.truth == types.predicted].share
        assert 0 <= right.min() and right.max() <= 1


def test_tables_that_were_made_together_go_to_the_run_they_belong_to(runs):
    table = {"error": histogram("error_mm", [3.0], EDGES)}
    rows = [{"contender": name, "kind": "surrogate", "cost_us": 1.0} for name in (runs[0].path.name, runs[2].path.name)]
    tables = [row for one in rows for row in table_rows(one["contender"], "surrogate", table)]
    record_together(rows, tables, {runs[0].path: "mlp"}, "error_mm")
    assert [row["contender"] for row in read_run(runs[0].path).tabulated] == ["mlp"]
    assert read_run(runs[2].path).tabulated == runs[2].tabulated


def test_reports_overlay_runs_without_figures_and_checkpoints(runs, tmp_path):
    table = overlay_table(runs, "error")
    mlp = table[table.contender == "mlp"]
    assert set(mlp.runs) == {2} and mlp.share.sum() == pytest.approx(1.0, abs=0.02)
    assert (mlp.share_smallest <= mlp.share).all() and (mlp.share <= mlp.share_largest).all()
    assert set(table.contender) == {"mlp", "kan", "RK4"}, "a run without tables is left out"
    report = write_report([run.path for run in runs], tmp_path / "one", ["error_mm"], "error_mm", "Toy", figures=False)
    page = (tmp_path / "one" / "table.md").read_text(encoding="utf-8")
    assert "overlay_error.csv" in {path.name for path in report.files} and "`overlay_error.csv`" in page
    for run in runs:
        shutil.rmtree(run.path / "figures", ignore_errors=True)
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    write_report([run.path for run in runs], tmp_path / "two", ["error_mm"], "error_mm", "Toy", figures=False)
    one, two = ((tmp_path / name / "overlay_error.csv").read_bytes() for name in ("one", "two"))
    assert one == two


def test_published_tables_are_small_and_those_of_baselines_stand_once(runs, tmp_path, monkeypatch):
    publish([run.path for run in runs], tmp_path / "published")
    folder = tmp_path / "published" / "toy"
    found, problems = read_published(folder)
    assert not problems
    assert {run.config_hash: run.tabulated for run in found} == {run.config_hash: run.tabulated for run in runs}
    text = (folder / "other" / "baselines.jsonl").read_text(encoding="utf-8")
    assert text.count('"table":"error"') == 1
    new, old = (overlay_table(some, "error").sort_values(["contender", "low"]) for some in (found, runs))
    assert new.reset_index(drop=True).equals(old.reset_index(drop=True))
    sizes = [len(line) for line in (folder / "other" / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(sizes) < 2000
    monkeypatch.setattr("thesis_surrogates.core.publishing.LARGE_SUITE_RUNS", 2)
    publish([run.path for run in runs], tmp_path / "large")
    assert not any(run.tabulated for run in read_published(tmp_path / "large" / "toy")[0])


def test_what_is_no_small_table_is_refused():
    with pytest.raises(ValueError, match="at most 1,000, in wider bins"):
        histogram("error_mm", [1.0], np.arange(900.0))
    with pytest.raises(ValueError, match="must increase"):
        histogram("error_mm", [1.0], [0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="from 0 to 1"):
        confusion("type", [0, 2], [0, 1], ["a", "b"])
    assert isinstance(confusion("type", np.zeros(0, int), np.zeros(0, int), ["a", "b"]), SmallTable)
    empty = binned_medians("x", "y", [], [], [0, 1, 2]).frame()
    assert empty["median"].isna().all() and empty.number.sum() == 0
