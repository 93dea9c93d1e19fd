"""Costs in every runtime and trust as facts: what the tables say of known numbers, what is refused, and the two
programs end to end.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thesis_surrogates.core.facts import as_split, from_split, read_run, reason_not_measurable
from thesis_surrogates.core.frontier import runtime_frontier
from thesis_surrogates.core.plots import few_colors
from thesis_surrogates.core.publishing import publish, read_published
from thesis_surrogates.core.recorder import append_event, open_run
from thesis_surrogates.core.runtimes import (
    conditions_text,
    cost_ratios,
    costs_markdown,
    measured_batches,
    pool_runs,
    runtime_facts,
    runtime_rows,
    runtime_table,
    savings_markdown,
)
from thesis_surrogates.core.trust_tables import (
    checks_markdown,
    fallback_markdown,
    fallback_medians,
    goal_cell,
    trust_facts,
)
from thesis_surrogates.running.execution import run
from thesis_surrogates.tracks.study.frontier import FRONTIER, reference_lines
from thesis_surrogates.tracks.study.runtimes import RUNTIMES, UNMEASURED
from thesis_surrogates.tracks.study.trust_tables import UNTRIED, jacobian_markdown, jacobian_of, trust_table

ROOT = Path(__file__).resolve().parent.parent
ABOUT = {"tracks": 100, "machine": {"processor": "a processor", "torch": "2"}, "protocol": {"threads": 1}}


def measured(contender, kind, path, error, costs):
    """Rows of one contender and path, by batch."""
    return [
        {
            "contender": contender,
            "kind": kind,
            "path": path,
            "batch": batch,
            "cost_us": cost,
            "parameters": 7,
            "position_mean_mm": error,
            "position_median_mm": error / 2,
            "position_p95_mm": 3 * error,
            "slope_mean": 1e-4 * error,
        }
        for batch, cost in costs.items()
    ]


def measurement(error=1e-2, cost=1.0):
    """Two steppers by three paths, a parabola, a surrogate in two runtimes, and another run's surrogate."""
    rows = measured("straight line", "nothing", "numpy", 300.0, {1: 2.0, 50: 0.1, 1000: 0.01})
    rows += measured("parabola", "baseline", "torch", 90.0, {1: 50.0, 50: 2.0, 1000: 0.05})
    for path, few, many in (("numba kernel", 8.0, 3.0), ("propagate", 30.0, None), ("C++", 2.5, 2.0)):
        for name, exact, times in (("RK4 4 steps", 2e-2, 1.0), ("RK4 8 steps", 8e-3, 2.0)):
            rows += measured(name, "baseline", path, exact, {1: few * times} | ({1000: many * times} if many else {}))
    rows += measured("net", "surrogate", "torch eager", error, {1: 90.0 * cost, 50: 3.0, 1000: 0.5 * cost})
    rows += measured("net", "surrogate", "C++ header", error, {1: 1.25 * cost, 1000: 1.0 * cost})
    return rows + measured("other", "surrogate", "torch eager", 1e-9, {1: 1e-9, 1000: 1e-9})


def recorded(place, name="net", seed=0, **moments):
    """A run directory with the given events."""
    config = {
        "system": "tracks",
        "name": name,
        "question": "",
        "model": {"name": name},
        "data": {},
        "train": {},
        "seed": seed,
    }
    open_run(place, config, provenance={}).finish("done")
    for moment, payload in moments.items():
        append_event(place, moment, payload)
    return read_run(place)


def kept(rows):
    """What the run of `net` keeps of a measurement."""
    return runtime_facts(rows, "net", ABOUT, RUNTIMES.errors)


def table_of(runs, batch, headline="position_mean_mm"):
    return runtime_table(runs, batch, headline, RUNTIMES)


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of one recipe; the last is less accurate, so that fewer steps are enough."""
    numbers = [(1e-2, 1.0), (1e-2, 1.2), (3e-2, 0.9)]
    return [
        recorded(tmp_path / str(seed), seed=seed, runtimes=kept(measurement(*given)))
        for seed, given in enumerate(numbers)
    ]


def test_a_run_keeps_its_own_rows_the_classical_ones_and_two_batches():
    facts = kept(measurement())
    table = from_split(facts["rows"])
    assert facts["batches"] == [1, 1000] and facts["machine"] == ABOUT["machine"]
    assert set(table.contender) == {"straight line", "parabola", "RK4 4 steps", "RK4 8 steps", "net"}
    assert not any("50" in name for name in table.columns if name.startswith("cost"))
    assert (
        table[table.path == "propagate"].cost_us_1000.isna().all()
        and table[table.path == "propagate"].cost_us_1.notna().all()
    )


def test_stored_numbers_have_four_digits_and_words_stay():
    table = pd.DataFrame({"a": [1.23456789e-7, math.nan], "b": [3, 4], "c": ["x", "y"]})
    back = from_split(as_split(table))
    assert back.a[0] == 1.235e-7 and math.isnan(back.a[1]) and list(back.b) == [3, 4] and list(back.c) == ["x", "y"]


def test_the_cheapest_method_that_is_at_least_as_accurate(seeds):
    table = table_of(seeds, 1000)
    kernel = table[table.against == "bare kernel"].iloc[0]
    assert kernel.seeds == 3 and kernel.runtime == "torch eager" and kernel.baseline == "RK4 8 steps / RK4 4 steps"
    assert kernel.cost_us == 0.5 and (kernel.cost_us_low, kernel.cost_us_high) == (0.45, 0.6)
    assert (
        kernel.ratio == pytest.approx(6 / 0.6)
        and kernel.ratio_low == pytest.approx(3 / 0.45)
        and kernel.ratio_high == pytest.approx(6 / 0.5)
    )
    native = table[table.against == "C++"].iloc[0]
    assert native.runtime == "C++ header" and native.ratio == pytest.approx(4 / 1.2)
    assert "Python entry" not in set(table.against)  # nobody timed `propagate` at this batch


def test_a_single_track_is_also_held_against_the_python_entry(seeds):
    table = table_of(seeds[:1], 1).set_index("against")
    assert table.loc["bare kernel", "ratio"] == pytest.approx(16 / 90) and table.loc[
        "Python entry", "ratio"
    ] == pytest.approx(60 / 90, rel=1e-3)
    assert table.loc["C++", "ratio"] == pytest.approx(5 / 1.25)
    assert list(cost_ratios(seeds[:1], "position_mean_mm", RUNTIMES).columns) == [
        "1,000 tracks, bare kernel",
        "1,000 tracks, C++",
        "one track, bare kernel",
        "one track, Python entry",
        "one track, C++",
    ]


def test_another_headline_counts_another_error(tmp_path):
    rows = measurement()
    for row in rows:
        row["position_median_mm"] = 1e-9 if row["contender"] == "parabola" else 1.0
    one = recorded(tmp_path / "a", runtimes=kept(rows))
    assert table_of([one], 1000, "position_median_mm").set_index("against").loc["bare kernel", "baseline"] == "parabola"


def test_nothing_is_as_accurate(tmp_path):
    one = recorded(tmp_path / "a", runtimes=kept(measurement(error=1e-6)))
    table = table_of([one], 1000)
    assert set(table.baseline) == {"none"} and np.isinf(table.ratio).all()
    assert (
        "| none | – | inf |" in savings_markdown(table, "position_mean_mm", RUNTIMES)
        and costs_markdown(table, RUNTIMES).count("**") == 4
    )


def test_the_last_measurement_counts_and_runs_without_any_do_not_matter(tmp_path, seeds):
    append_event(tmp_path / "0", "runtimes", kept(measurement(cost=2.0)))
    again, bare = read_run(tmp_path / "0"), recorded(tmp_path / "bare", name="bare")
    assert pool_runs([again, bare], 1000).query("path == 'torch eager' and kind == 'surrogate'").cost_us.iloc[0] == 1.0
    assert (
        runtime_rows(bare, 1000).empty
        and measured_batches([bare]) == []
        and measured_batches([bare, again]) == [1000, 1]
    )
    assert runtime_rows(again, 50).empty and table_of([again], 50).empty


def test_without_facts_there_are_sentences(tmp_path):
    bare = recorded(tmp_path / "bare")
    for runs in ([], [bare]):
        assert costs_markdown(table_of(runs, 1), RUNTIMES) == UNMEASURED
        assert savings_markdown(table_of(runs, 1), "position_mean_mm", RUNTIMES) == UNMEASURED
        assert runtime_frontier(runs, "position_mean_mm", {}, FRONTIER) is None and conditions_text(runs, "track") == ""
        assert cost_ratios(runs, "position_mean_mm", RUNTIMES).empty
        assert jacobian_markdown(trust_table(runs)) == fallback_markdown(runs, "mm", UNTRIED) == UNTRIED
        assert checks_markdown(runs, "RK4", UNTRIED) == UNTRIED
        assert fallback_medians(runs, "mm").empty and math.isnan(jacobian_of(trust_table(runs), "net"))


def test_figure_shows_every_step_count_and_one_column_where_c_plus_plus_is_missing(tmp_path, seeds):
    lines = reference_lines("position_mean_mm", 3e-3)
    figure, drawn = runtime_frontier(seeds, "position_mean_mm", lines, FRONTIER)
    assert len(figure.axes) == 4 and len(drawn[(drawn.batch == 1) & (drawn.contender == "RK4 8 steps")]) == 3
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {
        "net",
        "parabola",
        "straight line",
        "RK4",
        "RK4, propagate",
        "4",
        "8",
        "VELO hit 12 µm",
        "goal, mean 3 µm",
    } <= words
    rows = [row for row in measurement() if "C++" not in row["path"]]
    alone = recorded(tmp_path / "alone", runtimes=kept(rows))
    assert len(runtime_frontier([alone], "position_mean_mm", lines, FRONTIER)[0].axes) == 2
    assert few_colors(figure)[1:4] == b"PNG" and len(few_colors(figure)) < 40_000


def examined(scale=1.0, flagged=0.2):
    """Tables as the examination of one run gives them."""
    jacobian = [
        {
            "band": band,
            "quantity": quantity,
            "tracks": 10,
            "p50": scale * value,
            "p95": 4 * scale * value,
            "p99": 9 * scale * value,
        }
        for band, factor in (("all", 1.0), ("3 to 8 GeV", 5.0), ("above 50 GeV", 0.1))
        for quantity, value in (
            ("scaled", 1e-3 * factor),
            ("unscaled", 2e-3),
            ("liouville", 1e-4 * factor),
            ("straight", 0.4),
        )
    ]
    checks = [
        {"contender": who, "check": check, "unit": unit, "median": 0.0, "p99": value, "max": 1.0}
        for who, value in (("RK4", 1e-9), ("net", 1e-3 * scale))
        for check, unit in (("bend", "mm"), ("wrong way", "share"))
    ]
    fallback = [
        {
            "tolerance_mm": t,
            "flagged": flagged / t,
            "before_p99_mm": 9.0,
            "before_max_mm": 20.0,
            "accepted_p99_mm": t,
            "accepted_max_mm": 2 * t,
            "after_p99_mm": 0.9 * t,
            "after_max_mm": 1.9 * t,
            "lookups": 3.0,
            "lookups_without": 30.0,
        }
        for t in (1.0, 10.0)
    ]
    return {"jacobian": pd.DataFrame(jacobian), "checks": pd.DataFrame(checks), "fallback": pd.DataFrame(fallback)}


def test_trust_is_the_median_over_the_seeds(tmp_path):
    runs = [
        recorded(tmp_path / str(seed), seed=seed, trust=trust_facts(examined(scale, flagged), {"tracks": 10}))
        for seed, (scale, flagged) in enumerate([(1.0, 0.2), (2.0, 0.3), (7.0, 0.5)])
    ]
    table = trust_table(runs)
    one = table[(table.quantity == "scaled") & (table.band == "all")].iloc[0]
    assert (one.seeds, one.p50, one.p50_low, one.p50_high, one.p95) == (3, 2e-3, 1e-3, 7e-3, 8e-3)
    assert jacobian_of(table, "net") == 2e-3 and math.isnan(jacobian_of(table, "another"))
    assert "| net | 3 | 0.002 [0.001, 0.007] | 0.008 [0.004, 0.028] | 0.001 | 2e-05 |" in jacobian_markdown(table)
    assert list(fallback_medians(runs, "mm").flagged) == pytest.approx([0.3, 0.03])
    assert "| net | 9 | 30.00% → 0.9 | 3.00% → 9 |" in fallback_markdown(runs, "mm", UNTRIED)
    assert "| RK4 | 1e-09 | 1e-09 |\n| net | 0.002 | 0.002 |" in checks_markdown(runs, "RK4", UNTRIED)


def test_goal_cells():
    assert (
        goal_cell(1e-2, 1e-2) == "**0.01** / 0.01"
        and goal_cell(0.011, 1e-2) == "0.011 / 0.01"
        and goal_cell(math.nan, 1.0) == "–"
    )


def test_facts_are_published_and_small(tmp_path):
    one = recorded(
        tmp_path / "run",
        runtimes=kept(measurement()),
        trust=trust_facts(examined(), {"tracks": 10}),
    )
    publish([one.path], tmp_path / "published")
    (there,), unread = read_published(tmp_path / "published" / "tracks")
    assert not unread
    pd.testing.assert_frame_equal(table_of([one], 1000), table_of([there], 1000))
    pd.testing.assert_frame_equal(trust_table([one]), trust_table([there]))
    assert (there.path.parent / "runs.jsonl").stat().st_size < 8000


def test_refusals_say_why(tmp_path):
    assert "config.yaml" in reason_not_measurable(tmp_path, "tracks")
    queued = recorded(tmp_path / "run").path
    assert "best.pt" in reason_not_measurable(queued, "tracks")
    (queued / "checkpoints").mkdir()
    (queued / "checkpoints" / "best.pt").touch()
    assert reason_not_measurable(queued, "tracks") is None
    config = read_run(queued).config
    with open_run(queued, config, provenance={}):
        assert "another process" in reason_not_measurable(queued, "tracks")
    (queued / "config.yaml").write_text((queued / "config.yaml").read_text().replace("tracks", "orbits"))
    assert "'orbits'" in reason_not_measurable(queued, "tracks")


def program(name, *arguments):
    """A benchmark as a user starts it, with torch.compile doing nothing, which saves a minute."""
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of one epoch; its dataset is not kept."""
    folder = tmp_path_factory.mktemp("trained")
    config = {
        "system": "tracks",
        "name": "tiny",
        "data": {"n_tracks": 2000},
        "model": {"name": "residual", "hidden": [8, 8]},
        "train": {"epochs": 1, "batch_size": 256},
    }
    return run(config, out=folder / "runs", data_dir=folder / "data", progress=False).path


def test_the_timing_program_adds_runtimes(trained, tmp_path):
    done = program(
        "tracks_timing",
        trained,
        "--batches",
        1,
        20,
        "--budget",
        0.002,
        "--tracks",
        60,
        "--no-native",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "timing_results.json").is_file()
    table = table_of([read_run(trained)], 20)
    assert {"torch eager", "torch.compile", "ONNX Runtime", "TorchScript"} == set(table.runtime) and (
        table.cost_us > 0
    ).all()
    rows = runtime_rows(read_run(trained), 1)
    assert {"straight line", "parabola", "axis tables", "RK4 2 steps", "Cash-Karp 0.3 mm", "tiny"} <= set(
        rows.contender
    )
    assert "Cash-Karp 1e-06 mm" not in set(rows.contender)  # a hasty network needs no such baseline
    assert (rows[rows.contender == "tiny"].parameters > 0).all()
    assert "60 fresh tracks" in conditions_text([read_run(trained)], "track")


def test_the_trust_program_adds_trust(trained, tmp_path):
    done = program(
        "tracks_trust",
        trained,
        "--tracks",
        80,
        "--jacobians",
        20,
        "--tolerances",
        1,
        100,
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "trust.json").is_file()
    one = read_run(trained)
    assert 0 < jacobian_of(trust_table([one]), "tiny") < 10 and list(fallback_medians([one], "mm").tolerance_mm) == [
        1.0,
        100.0,
    ]
    assert one.last_event("trust")["tracks"] == 80 and "| RK4 |" in checks_markdown([one], "RK4", UNTRIED)


@pytest.mark.parametrize("name", ["tracks_timing", "tracks_trust"])
def test_the_programs_refuse_in_one_line(name, tmp_path):
    done = program(name, tmp_path, "--out", tmp_path / "out")
    assert (
        done.returncode == 2
        and done.stdout == ""
        and len(done.stderr.strip().splitlines()) == 1
        and "config.yaml" in done.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [("--batches", "0"), ("--batches", "-3"), ("--tracks", "0"), ("--budget", "nan")])
def test_the_timing_program_refuses_numbers_that_make_no_sense(wrong, tmp_path):
    done = program("tracks_timing", *wrong, "--out", tmp_path / "out")
    assert done.returncode == 2 and "give a number above zero" in done.stderr and not (tmp_path / "out").exists()
