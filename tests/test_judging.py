"""Judging: five sets that nobody has looked at, as facts beside the test row."""

import pytest
from command_line import surrogates

from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.suites import JUDGE_SEEDS
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import run
from thesis_surrogates.running.registry import get_system, resolve

TINY = {
    "system": "tracks",
    "model": {"name": "residual", "hidden": [4]},
    "data": {"n_tracks": 300},
    "train": {"epochs": 2, "steps_per_epoch": 2, "batch_size": 16},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """A trained run, before it is judged."""
    return run(TINY, tmp_path_factory.mktemp("judged"), data_dir=data_dir, progress=False)


def judged_errors(path):
    return [row["position_mean_mm"] for row in read_run(path).judged if row["kind"] == "surrogate"]


def test_judging_adds_facts_and_changes_none(trained, data_dir, tmp_path):
    judge = ("evaluate", trained.path, "--judge", "--data-dir", data_dir)
    answer = surrogates(*judge, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "") and "sets_low" in answer.stdout and "residual" in answer.stdout
    after = read_run(trained.path)
    assert after.evaluated == trained.evaluated and after.config_hash == trained.config_hash
    event = after.last_event("judged")
    assert event["seeds"] == list(JUDGE_SEEDS) and event["chosen_on"] == "validation"
    names = {row["contender"] for row in trained.evaluated}
    for seed in JUDGE_SEEDS:
        assert {row["contender"] for row in after.judged if row["set"] == f"judge {seed}"} == names
    assert not any("cost_us" in row for row in after.judged)
    errors = judged_errors(trained.path)
    assert len(set(errors)) == 5, "five sets, five errors"
    surrogates(*judge, cwd=tmp_path)
    assert judged_errors(trained.path) == errors, "the same sets each time"


def test_what_cannot_be_judged_is_refused_in_words(trained, tmp_path, data_dir):
    answer = surrogates("evaluate", trained.path, "--judge", "--on", "x.h5", cwd=tmp_path)
    assert answer.returncode != 0 and "--judge draws its own test sets" in answer.stderr
    path = ensure_dataset(get_system("tracks"), resolve(TINY).data, data_dir)
    own = run({**TINY, "data": {"path": str(path)}}, tmp_path, data_dir=data_dir, progress=False)
    answer = surrogates("evaluate", own.path, "--judge", cwd=tmp_path)
    assert answer.returncode != 0 and "no new sets can be drawn" in answer.stderr and "--on FILE" in answer.stderr
    assert not read_run(own.path).judged
