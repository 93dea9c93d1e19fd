"""Where runs stand: the same answer from the summary and from the facts, in little time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from made_up import epoch_end

from thesis_surrogates.core.facts import load_runs, read_run
from thesis_surrogates.core.recorder import open_run, prepare_run, record_death
from thesis_surrogates.core.run_files import RunFiles, read_state
from thesis_surrogates.core.run_summary import summarise_run
from thesis_surrogates.running.run_status import status_row, status_rows, text_table

CONFIG = {"system": "toy", "name": "wide", "seed": 3, "model": {"name": "line"}}


def write_run(folder, values=(0.9, 0.4, 0.6), **config):
    """A run that is done, with these validations."""
    with open_run(folder, {**CONFIG, **config}, provenance={}) as recorder:
        for epoch, value in enumerate(values):
            recorder(epoch_end(epoch, value, value, 2.0 + epoch))
    return folder


def without_summary(folder):
    """The row of a run as an earlier version has left it."""
    state = {key: value for key, value in read_state(RunFiles(folder).state).items() if key not in ("summary", "seed")}
    RunFiles(folder).state.write_text(json.dumps(state))
    return status_row(folder)


def test_the_summary_says_what_the_facts_say(tmp_path):
    for number, values in enumerate([(0.9, 0.4, 0.6), (), (float("nan"), 0.5), (0.3, 0.3)]):
        folder = write_run(tmp_path / str(number), values, seed=number)
        quick, table = status_row(folder), load_runs(folder).iloc[0]
        assert quick == without_summary(folder)
        for key in ("system", "name", "seed", "status", "attempt", "epochs", "training_seconds"):
            assert quick[key] == table[key], key
        assert ("best_loss" in quick) == ("best_loss" in table)
        if "best_loss" in quick:
            assert (quick["best_loss"], quick["best_epoch"]) == (table.best_loss, table.best_epoch)


def test_a_summary_counts_what_a_later_attempt_has_kept(tmp_path):
    write_run(tmp_path, (0.9, 0.1))
    with open_run(tmp_path, CONFIG, provenance={}) as recorder:  # goes on from the first epoch
        for epoch, value in enumerate((0.8, 0.7), start=1):
            recorder(epoch_end(epoch, value, value, 2.0 + epoch))
    row = status_row(tmp_path)
    assert (row["attempt"], row["epochs"], row["best_loss"]) == (2, 3, 0.7) and row == without_summary(tmp_path)


def test_a_run_under_way_or_killed_is_read_from_its_facts_and_not_from_an_old_summary(tmp_path):
    write_run(tmp_path, (0.9,))
    recorder = open_run(tmp_path, CONFIG, provenance={})
    recorder(epoch_end(1, 0.2, 0.2, 3.0))
    assert (status_row(tmp_path)["status"], status_row(tmp_path)["epochs"]) == ("running", 2)
    recorder.close()
    assert status_row(tmp_path)["status"] == read_run(tmp_path).status == "killed"
    record_death(tmp_path, CONFIG, "gone")
    assert read_state(RunFiles(tmp_path).state)["summary"] == summarise_run(RunFiles(tmp_path))
    prepare_run(tmp_path / "waits", CONFIG)
    assert status_row(tmp_path / "waits")["status"] == "queued"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_one_damaged_run_hides_no_other(tmp_path, text):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=4)
    RunFiles(tmp_path / "a").state.write_text(text)
    assert [row["status"] for row in status_rows(tmp_path)] == ["unreadable", "done"]


def test_a_table_has_all_its_cells_in_a_pipe_and_fits_a_terminal(tmp_path):
    rows = [{"name": "a" * 50, "value": 1 / 3, "count": 7}, {"name": "b", "value": float("nan"), "text": "x" * 90}]
    columns = ["name", "value", "count", "text"]
    whole = text_table(rows, columns)
    assert (
        "a" * 50 in whole
        and "0.3333" in whole
        and "x" * 90 in whole
        and whole.splitlines()[2].split()[1:3] == ["-"] * 2
    )
    narrow = text_table(rows, columns, width=36)
    assert max(map(len, narrow.splitlines())) <= 36 and "…" in narrow and narrow.count("name") > 1


def test_status_loads_neither_torch_nor_pandas(tmp_path):
    write_run(tmp_path / "a")
    program = (
        "import sys\nfrom thesis_surrogates import cli\n"
        f"try: cli.main(['status', {str(tmp_path)!r}])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "wide" in done.stdout and "0.4" in done.stdout
