"""The report depends on facts only, is the same when made twice, and hides nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from made_up import epoch_end

from thesis_surrogates.core.facts import Run, read_run
from thesis_surrogates.core.publishing import publish, read_published, strip_private
from thesis_surrogates.core.recorder import open_run, prepare_run
from thesis_surrogates.core.report import write_report
from thesis_surrogates.core.tables import (
    ReportError,
    comparison_table,
    convergence_table,
    drop_seeds,
    escape_latex,
    read_results,
)
from thesis_surrogates.running.reports import read_each

COLUMNS, HEADLINE = ("error_mean_mm", "error_p95_mm"), "error_mean_mm"


def toy(
    folder, name, *, seed=0, width=8, depth=1, error=0.1, data="d" * 16, rows=None, epochs=4, crash=None, system="toy"
):
    config = {
        "system": system,
        "name": name,
        "seed": seed,
        "question": "?",
        "model": {"name": "mlp", "width": width, "depth": depth},
        "data": {"seed": 0},
        "train": {"epochs": epochs},
    }
    origin = {
        "data_fingerprint": data,
        "processor": "abacus",
        "threads": 1,
        "device": "cpu",
        "argv": ["/home/ann/bin/x"],
    }
    path = folder / f"{name}"
    with open_run(path, config, provenance=origin) as recorder:
        recorder.event("start", {"epoch": 0, "monitor": "loss", "seconds": 0.0})
        recorder.event("phase_start", {"epoch": 0, "phase": "main"})
        for epoch in range(epochs):
            loss = error * (1 + 2.0**-epoch)
            recorder(epoch_end(epoch, 0.9 * loss, loss, seconds=1.5 * (epoch + 1)))
        if crash is not None:
            raise crash
        metrics = {"error_mean_mm": error, "error_p95_mm": 3 * error}
        default = [
            {
                "contender": "RK4 5 steps",
                "kind": "baseline",
                "cost_us": 0.2,
                "parameters": 0,
                "error_mean_mm": 4.0,
                "error_p95_mm": 9.0,
            },
            {"contender": "straight line", "kind": "nothing", "cost_us": 0.01, "parameters": 0, "error_mean_mm": 300.0},
            {
                "contender": "mlp",
                "kind": "surrogate",
                "cost_us": 0.1 * width,
                "parameters": width**2,
                "note": "fixed leg",
                **metrics,
            },
        ]
        recorder.event("evaluated", {"rows": default if rows is None else rows})
    return path


def contents(path):
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != "manifest.json"}


def report(paths, out, title="Toys", figures=False):
    return write_report(paths, out, COLUMNS, HEADLINE, title, figures=figures)


def test_same_bytes_twice_in_any_order_without_checkpoints_and_figures(tmp_path):
    paths = [
        toy(tmp_path / "runs", f"w={w}-seed={s}", seed=s, width=w, error=1 / w + s / 100)
        for w in (8, 16)
        for s in range(3)
    ]
    for path in paths:
        for name in ("checkpoints", "figures"):
            (path / name).mkdir()
            (path / name / "x.bin").write_bytes(b"x" * 1000)
        (path / "log.txt").write_text("log")
    report(paths, tmp_path / "a", figures=True)
    for path in paths:
        for name in ("checkpoints", "figures"):
            shutil.rmtree(path / name)
        (path / "log.txt").unlink()
    report(paths[::-1], tmp_path / "b", figures=True)
    assert {"loss_curves.png", "accuracy_cost.pdf", "table.tex"} <= set(contents(tmp_path / "a"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    assert first.pop("written") <= second.pop("written") and first.pop("reported_by")["packages"]["pandas"]
    assert second.pop("reported_by").keys() == {"git", "packages"} and first == second
    assert first["data"] == ["d" * 16] and len(first["runs"]) == 6
    assert all(run["run_id"] and run["config_hash"] for run in first["runs"])


def test_no_path_in_the_report(tmp_path):
    report([toy(tmp_path / "runs", "a"), tmp_path / "gone"], tmp_path / "out")
    for name, data in contents(tmp_path / "out").items():
        assert str(tmp_path).encode() not in data, name


def test_grid_of_three_by_three_by_three(tmp_path):
    paths, truth = [], {}
    for width in (4, 8, 16):
        for depth in (1, 2, 3):
            for seed in range(3):
                error = 1 / (3 * width * depth) + 0.01 * seed * seed
                truth[width, depth, seed] = error
                name = f"width={width},depth={depth},seed={seed}"
                paths.append(toy(tmp_path / "runs", name, seed=seed, width=width, depth=depth, error=error))
    made = report(paths, tmp_path / "out")
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert len(runs) == 27
    pivot = runs.pivot_table(index="model.width", columns="model.depth", values="error_mean_mm")
    for width in (4, 8, 16):
        for depth in (1, 2, 3):
            assert abs(pivot.loc[width, depth] - sum(truth[width, depth, s] for s in range(3)) / 3) < 1e-12
    table = made.table[made.table.kind == "surrogate"]
    assert len(table) == 9 and (table.seeds == 3).all() and table.error_mean_mm.is_monotonic_increasing
    row = table[table.contender == "width=8,depth=2"].iloc[0]
    errors = sorted(truth[8, 2, s] for s in range(3))
    assert [row.error_mean_mm_low, row.error_mean_mm, row.error_mean_mm_high] == errors
    assert (row.parameters, row.training_seconds) == (64, 6.0)

    shutil.rmtree(paths[5] / "facts")
    (paths[5] / "run.json").unlink()
    fewer = report(paths, tmp_path / "fewer")
    assert len(pd.read_csv(tmp_path / "fewer" / "runs.csv")) == 26
    assert [(problem.name, problem.status) for problem in fewer.problems] == [("width=4,depth=2,seed=2", "queued")]


def test_rows_and_their_order(tmp_path):
    paths = [toy(tmp_path, "b-seed=0", error=0.5, width=4), toy(tmp_path, "a-seed=0", error=0.1, width=16)]
    table = comparison_table(paths, COLUMNS, HEADLINE)
    assert list(table.contender) == ["straight line", "RK4 5 steps", "a", "b"]
    assert list(table.kind) == ["nothing", "baseline", "surrogate", "surrogate"]
    assert math.isnan(table.error_p95_mm[0]) and table.cost_us[3] == 0.4 and table.note[3] == "fixed leg"


def test_runs_on_other_data_are_not_compared(tmp_path):
    paths = [toy(tmp_path, "a", data="1" * 16), toy(tmp_path, "b", data="2" * 16, width=16)]
    made = report(paths, tmp_path / "out", figures=True)
    assert list(made.table.data) == ["1" * 8] * 3 + ["2" * 8] * 3
    names = {file.name for file in made.files}
    assert {"accuracy_cost-11111111.png", "accuracy_cost-22222222.pdf", "loss_curves.csv"} <= names


def test_runs_that_were_read_give_the_same_report(tmp_path):
    """A report of a thousand runs read each of them twice."""
    folders = [toy(tmp_path / "runs", "a"), tmp_path / "runs" / "nowhere"]
    found = read_each(folders)
    assert isinstance(found[0], Run) and found[1] == folders[1], "what cannot be read is still reported"
    report(found, tmp_path / "once")
    report(folders, tmp_path / "twice")
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")


def test_failures_are_rows(tmp_path):
    paths = [toy(tmp_path, "good")]
    with pytest.raises(RuntimeError):
        toy(tmp_path, "bad", seed=1, crash=RuntimeError("boom | in /home/ann/x.py"))
    prepare_run(tmp_path / "waiting", {"system": "toy", "name": "waiting", "seed": 9})
    toy(tmp_path, "silent", seed=2, rows=[])
    paths += [tmp_path / name for name in ("bad", "waiting", "silent", "lost")]
    made = report(paths, tmp_path / "out")
    statuses = {problem.name: problem.status for problem in made.problems}
    assert statuses == {"bad": "failed", "waiting": "queued", "silent": "not evaluated", "lost": "missing"}
    page = (tmp_path / "out" / "table.md").read_text()
    assert all(f"{name} ({status})" in page for name, status in statuses.items())
    assert "RuntimeError: boom" in page and "in epoch 4" in page
    only = comparison_table([tmp_path / "bad"], COLUMNS, HEADLINE)
    assert list(only.status) == ["failed"]


def test_duplicates_count_once(tmp_path):
    paths = [toy(tmp_path / "one", "a", error=0.1), toy(tmp_path / "two", "a", error=0.1)]
    runs, problems = read_results(paths)
    assert len(runs) == 1 and [problem.status for problem in problems] == ["duplicate"]
    assert comparison_table(paths, COLUMNS, HEADLINE).seeds.max() == 1


def test_a_diverged_seed_shows(tmp_path):
    paths = [toy(tmp_path, f"a-seed={seed}", seed=seed, error=error) for seed, error in enumerate((0.1, math.nan, 0.2))]
    table = comparison_table([*paths, toy(tmp_path, "b", width=32, error=0.3)], COLUMNS, HEADLINE)
    surrogates = table[table.kind == "surrogate"]
    assert list(surrogates.contender) == ["b", "a"] and math.isnan(surrogates.error_mean_mm.iloc[1])


def test_a_run_with_two_surrogates(tmp_path):
    rows = [{"contender": f"network {k}", "kind": "surrogate", "cost_us": k, "error_mean_mm": 1.0 / k} for k in (1, 2)]
    table = comparison_table(
        [toy(tmp_path, f"a-seed={s}", seed=s, rows=rows) for s in range(2)], ("error_mean_mm",), HEADLINE
    )
    assert list(table.contender) == ["a network 2", "a network 1"] and list(table.seeds) == [2, 2]


def test_seeds_are_one_recipe_whatever_the_contender_is_called(tmp_path):
    paths = []
    for seed in range(3):
        rows = [{"contender": f"a-seed={seed}", "kind": "surrogate", "cost_us": 1.0, "error_mean_mm": 1.0 + seed}]
        paths.append(toy(tmp_path, f"a-seed={seed}", seed=seed, rows=rows))
    table = comparison_table(paths, ("error_mean_mm",), HEADLINE)
    assert list(table.contender) == ["a"] and list(table.seeds) == [3] and list(table.error_mean_mm) == [2.0]


def test_one_name_for_two_recipes_is_told_apart(tmp_path):
    paths = [toy(tmp_path / str(width), "a", width=width) for width in (8, 16)]
    names = set(comparison_table(paths, COLUMNS, HEADLINE).contender) - {"straight line", "RK4 5 steps"}
    assert len(names) == 2 and all(name.startswith("a ") for name in names)


def test_nothing_to_report(tmp_path):
    with pytest.raises(ReportError, match="train some first"):
        report([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("mlp-seed=3", "mlp"),
        ("seed=1", "toy"),
        ("width=8,seed=2", "width=8"),
        ("seed_1-wide", "wide"),
        ("reseeded", "reseeded"),
        ("mlp", "mlp"),
        ("a seed 7", "a seed 7"),
    ],
)
def test_label(name, short):
    run = SimpleNamespace(config={"name": name, "system": "toy"}, path=None)
    assert drop_seeds(run) == short


def test_convergence(tmp_path):
    path = toy(tmp_path, "a", epochs=12)
    table = convergence_table([read_run(path)])
    assert (table.epoch_to_90[0], table.best_epoch[0], bool(table.overfit[0]), table.seconds[0]) == (4, 11, False, 18.0)


def test_published_facts_give_the_same_report_and_no_secret(tmp_path):
    paths = [toy(tmp_path / "runs", f"w-seed={seed}", seed=seed, error=0.1 + seed) for seed in range(3)]
    with pytest.raises(OSError, match="secret"):
        toy(tmp_path / "runs", "bad", width=99, crash=OSError(f"cannot read {tmp_path}/secret/data.h5"))
    paths.append(tmp_path / "runs" / "bad")
    host = json.loads((paths[0] / "run.json").read_text())["host"]
    names = publish(paths, tmp_path / "published")
    assert {name.parent.relative_to(tmp_path) for name in names} == {Path("published/toy/other")}
    for file in (tmp_path / "published").rglob("*"):
        text = file.read_text() if file.is_file() else ""
        assert not any(word in text for word in ("argv", '"pid"', "/home/ann", str(tmp_path), "traceback", host + '"'))
    published, unread = read_published(tmp_path / "published" / "toy")
    assert [run.status for run in published] == ["failed", "done", "done", "done"] and not unread
    report(published[1:], tmp_path / "b")
    report(paths[:3], tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_ended_runs_are_published(tmp_path):
    prepare_run(tmp_path / "waiting", {"system": "toy", "name": "waiting", "seed": 9})
    with pytest.raises(ReportError, match="queued; publish it when it has ended"):
        publish([tmp_path / "waiting"], tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_strip_keeps_units_and_relative_paths():
    words = ["mm/GeV/c", "1/GeV", "outputs/runs/a", "3/4/5", "and/or", "https://a.b/c"]
    assert strip_private(words, []) == words
    assert strip_private(["/usr/lib/x.so", "see /a/b/c.py:3", "~/data/x.h5", "C:\\Users\\ann\\x"], []) == [
        "x.so",
        "see c.py:3",
        "x.h5",
        "x",
    ]


def test_latex():
    assert escape_latex(r"a_b^c\d{}~%$#&µ–") == (
        r"a\_b\textasciicircum{}c\textbackslash{}d\{\}\textasciitilde{}\%\$\#\&\textmu{}--"
    )


def test_latex_table_has_one_row_per_contender(tmp_path):
    report([toy(tmp_path / "runs", "a_b-seed=0")], tmp_path / "out")
    lines = (tmp_path / "out" / "table.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{llllllll}" and lines[-1] == r"\end{tabular}"
    assert sum(line.endswith(r"\\") for line in lines) == 4 and r"\textbf{a\_b}" in "\n".join(lines)
