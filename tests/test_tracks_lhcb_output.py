"""Logs of LHCb's software: what is read, and that nothing broken is read quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thesis_surrogates.core.frontier import frontier_figure
from thesis_surrogates.core.tables import build_table
from thesis_surrogates.tracks.exchange.lhcb_output import (
    LhcbOutputError,
    accuracy_rows,
    inputs_of,
    lhcb_rows,
    ntuple_rows,
    parse_extrapolator_test,
    parse_timing,
)
from thesis_surrogates.tracks.study.frontier import FRONTIER, reference_lines

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples" / "lhcb"
TRACK = (
    "Tester   SUCCESS Propagating     ( -900.000,   0.000, -0.3000, 0.0000 ) with q*p = -2.5 GeV from z = 3000 to 7000"
)
NEUTRAL = (
    "Tester   SUCCESS Propagating     ( -900.000,   0.000, -0.3000, 0.0000 ) with q*p = inf GeV from z = 3000 to 7000"
)


def result(name="Reference", x="-3098.603", tail=""):
    return f"Tester   SUCCESS   {name} -> ( {x},   0.067, -0.8297, 0.0001 ){tail}"


@pytest.fixture
def log(tmp_path):
    def write(*lines):
        path = tmp_path / "job.log"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_units_signs_and_unrelated_lines(log):
    table = parse_extrapolator_test(
        log(
            "ApplicationMgr    SUCCESS",
            "| a | table | of counters |",
            TRACK,
            result(),
            result("Fast", "-3098.5"),
            NEUTRAL,
            result(),
            "the end -> of it",
        )
    )
    assert list(table.q_over_p) == [-0.4, -0.4, 0.0] and list(table.track) == [0, 0, 1]
    assert list(table.iloc[1][["x0_mm", "tx0", "z0_mm", "z1_mm", "x_mm", "ty"]]) == [
        -900.0,
        -0.3,
        3000.0,
        7000.0,
        -3098.5,
        0.0001,
    ]
    rows = accuracy_rows(table)
    assert (
        len(rows) == 1
        and rows.contender[0] == "LHCb Fast"
        and rows.tracks[0] == 1
        and rows.position_mean_mm[0] == pytest.approx(0.103, abs=1e-9)
    )
    assert accuracy_rows(table, neutral=True).missing[0] == 1  # the neutral track has no answer of Fast


def test_numbers_of_a_network_that_exploded(log):
    table = parse_extrapolator_test(
        log(
            TRACK,
            result(),
            "T  SUCCESS Net_v2 -> ( 3585942108531.170, -8315765418355.545, -164321107.7102, 1516733840.0370 )",
            TRACK,
            result(),
            "T SUCCESS Net_v2 -> ( nan, nan, nan, nan )",
        )
    )
    rows = accuracy_rows(table)
    assert rows.position_max_mm[0] > 1e12 and rows.tracks[0] == 1 and rows.missing[0] == 1


def test_two_legs_in_one_file_stay_apart(log):
    other = TRACK.replace("from z = 3000 to 7000", "from z = 2500 to 1200")
    rows = accuracy_rows(
        parse_extrapolator_test(log(TRACK, result(), result("Fast"), other, result(), result("Fast", "-3099.603")))
    )
    assert list(rows.z1_mm) == [1200.0, 7000.0] and list(rows.position_mean_mm) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((TRACK, result()[:60]), r"job.log, line 2: expected 'NAME -> \( x, y, tx, ty \)'"),
        ((TRACK, result(tail=" 7")), "line 2: expected 'NAME"),
        ((result(),), "line 1: expected a line 'Propagating ...' before it"),
        ((TRACK, result(), result()), "line 3: expected one result of Reference"),
        ((TRACK[:80], result()), r"line 1: expected 'Propagating \( x, y, tx, ty \) with q\*p"),
        ((TRACK.replace("-2.5", "0"),), "line 1: expected a momentum that is not zero"),
        ((TRACK.replace("-900.000", "-900,000"),), "line 1: expected 'Propagating"),
        (("nothing",), "is this the output of the extrapolator test"),
    ],
)
def test_broken_tests_are_refused(log, lines, message):
    with pytest.raises(LhcbOutputError, match=message):
        parse_extrapolator_test(log(*lines))


def test_errors_of_names_and_files(log, tmp_path):
    with pytest.raises(LhcbOutputError, match="no file"):
        parse_timing(tmp_path / "nowhere.log")
    table = parse_extrapolator_test(log(TRACK, result(), result("Fast")))
    for function in (accuracy_rows, inputs_of):
        with pytest.raises(LhcbOutputError, match="'CashKarp'.*the file has Fast, Reference"):
            function(table, "CashKarp")
    inputs, answers = inputs_of(table)
    assert inputs.shape == (1, 7) and inputs[0, 6] == 4000 and answers.shape == (1, 4)


HEAD = (
    "TIMER.TIMER   INFO Algorithm          (millisec) | "
    "   <user> |   <clock> |      min       max{} | entries | total (s) |"
)
ROW = "TIMER.TIMER   INFO   {:26s}|    49.000 |    50.000 |   48.000      51.0{} |       4 |     0.200 |"


@pytest.mark.parametrize("sigma", ["", "    sigma"])
def test_both_forms_of_the_sequencer_table(log, sigma):
    number = "     0.30" if sigma else ""
    table = parse_timing(
        log(
            "x | y",
            HEAD.format(sigma),
            "TIMER.TIMER   INFO -----",
            ROW.format("TestFast", number),
            ROW.format("Test Slow", number),
            "TIMER.TIMER   INFO -----",
            "a | counter | 7",
        )
    )
    assert (
        list(table.algorithm) == ["TestFast", "Test Slow"]
        and list(table.ms_per_event) == [50.0, 50.0]
        and table.entries[0] == 4
    )


@pytest.mark.parametrize(
    "bad", [ROW.format("TestFast", "").replace("50.000", "fifty"), ROW.format("TestFast", "").replace("|       4 ", "")]
)
def test_a_broken_row_of_a_timing_table_is_refused(log, bad):
    with pytest.raises(LhcbOutputError, match="job.log, line 3: expected 'NAME | user"):
        parse_timing(log("first", HEAD.format(""), bad))


def test_a_table_without_rows_and_a_broken_control_flow_row(log):
    with pytest.raises(LhcbOutputError, match="no timing table"):
        parse_timing(log(HEAD.format("")))
    with pytest.raises(LhcbOutputError, match="average / us"):
        parse_timing(
            log(
                " | Name of Algorithm   | Execution Count | Total Time / s  | Avg. Time / us   |",
                ' | "Test"   |   x |  0.1 |  10 |',
            )
        )


FLOW = " | Name of Algorithm                                | Execution Count | Total Time / s  | Avg. Time / us   |"


def test_counts_of_the_control_flow_manager_are_floating_point(log):
    """They are printed by a format for whole numbers that is given a double; names that are too long lose their
    closing quote.
    """
    long = '"' + "TrackExtrapolatorTesterWithAVeryLongName" * 2
    table = parse_timing(
        log(
            "HLTControlFlowMgr      INFO Timing table:",
            "HLTControlFlowMgr      INFO ",
            FLOW,
            ' | "TestFast"                                       |           1e+06 | '
            "          2.500 |            2.500 |",
            f" | {long} |     1.23457e+06 |           2.500 |            2.025 |",
            "",
            "LAZY_AND: TopSeq  #=10  Sum=10  Eff=|( 100.0000 +- 0.00000 )%|",
            ' | "Processed events"       |         1 |',
        )
    )
    assert list(table.entries) == [1_000_000, 1_234_570] and list(table.ms_per_event) == pytest.approx(
        [2.5e-3, 2.025e-3]
    )
    assert list(table.algorithm) == ["TestFast", long[1:]]


def test_a_table_of_counts_alone_says_how_to_get_times(log):
    with pytest.raises(
        LhcbOutputError, match="line 1: expected a table with times; run the job with CreateTimingTable = True"
    ):
        parse_timing(
            log(
                " | Name of Algorithm                                | Execution Count ",
                ' | "TestFast"                    |              10',
            )
        )


def test_a_track_without_reference_is_counted(log):
    """The test prints nothing for an extrapolator that gave up, and the reference may be the one."""
    rows = accuracy_rows(parse_extrapolator_test(log(TRACK, result(), result("Fast"), TRACK, result("Fast"))))
    assert rows.tracks[0] == 1 and rows.missing[0] == 0 and rows.unjudged[0] == 1


def test_ntuples_of_the_benchmark():
    good = {"dx": [3.0], "dy": [4.0], "dtx": [0.0], "dty": [0.0], "time": [2500], "success": [1]}
    rows = ntuple_rows({"BenchmarkExtrapolators.CashKarp": good, "Lost": {**good, "dx": [np.nan]}}, 7000.0).set_index(
        "contender"
    )
    assert (
        rows.position_mean_mm["LHCb CashKarp"] == 5.0
        and rows.us_per_track["LHCb CashKarp"] == 2.5
        and rows.missing["LHCb Lost"] == 1
    )
    with pytest.raises(LhcbOutputError, match="no column 'time'; is it one of"):
        ntuple_rows({"CashKarp": {key: value for key, value in good.items() if key != "time"}}, 7000.0)


def test_costs_per_track():
    accuracy = accuracy_rows(parse_extrapolator_test(SAMPLES / "extrapolator_test.txt"))
    times = parse_timing(SAMPLES / "timing_control_flow.txt")
    names = {"TestSyntheticMedium": "SyntheticMedium"}
    rows = lhcb_rows(accuracy, times, names, tracks=24, frame="TestStraight").set_index("contender")
    assert rows.us_per_track["LHCb SyntheticMedium"] == pytest.approx(40_000 / 24) and np.isnan(
        rows.us_per_track["LHCb SyntheticCoarse"]
    )
    assert (
        lhcb_rows(accuracy, times, names).us_per_track.isna().all()
        and lhcb_rows(accuracy, times, names).ms_per_event.notna().any()
    )
    with pytest.raises(LhcbOutputError, match="no algorithm 'TestHerab'"):
        lhcb_rows(accuracy, times, {"TestHerab": "Herab"})
    with pytest.raises(LhcbOutputError, match="two times"):
        lhcb_rows(accuracy, times.loc[[0, 0, 1]], names)


def test_rows_stand_in_a_comparison_and_in_its_figure():
    accuracy = accuracy_rows(parse_extrapolator_test(SAMPLES / "extrapolator_test.txt"))
    names = {f"TestSynthetic{kind}": f"Synthetic{kind}" for kind in ("Medium", "Coarse")}
    rows = lhcb_rows(accuracy, parse_timing(SAMPLES / "timing_control_flow.txt"), names, tracks=24)
    one = {"dx": [3.0], "dy": [4.0], "dtx": [0.0], "dty": [0.0], "time": [2500], "success": [1]}
    empty = build_table([], [], ["position_mean_mm", "slope_mean"], "position_mean_mm")
    ours = pd.DataFrame(
        [
            {
                "contender": f"RK4 {n} steps",
                "kind": "baseline",
                "status": "done",
                "cost_us": 0.1 * n,
                "position_mean_mm": 5.0 / n**4,
            }
            for n in (2, 4, 8)
        ]
    )
    table = pd.concat([ours, rows, ntuple_rows({"CashKarp": one}, 7000.0)])
    assert {"contender", "kind", "status", "seeds", "cost_us", "position_mean_mm", "slope_mean"} <= set(empty) & set(
        rows
    )
    lines = reference_lines("position_mean_mm", None)
    figure = frontier_figure(table, "position_mean_mm", lines, FRONTIER)
    drawn = {text.get_text() for text in figure.axes[0].texts}
    assert {"LHCb SyntheticMedium", "LHCb SyntheticCoarse", "LHCb CashKarp"} <= drawn


def test_samples_are_small_labelled_and_can_be_made_again(tmp_path):
    for path in SAMPLES.glob("*.txt"):
        assert path.stat().st_size < 15_000 and path.read_text().startswith("# Synthetic sample")
    (tmp_path / "make.py").write_text((SAMPLES / "make.py").read_text())
    subprocess.run([sys.executable, tmp_path / "make.py"], check=True)
    for path in SAMPLES.glob("*.txt"):
        assert (tmp_path / path.name).read_text() == path.read_text()
