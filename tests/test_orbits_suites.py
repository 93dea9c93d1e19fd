"""The suites of orbits: each loads, asks one question, and no comparison in it changes two things at once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from thesis_surrogates.core.config import config_hash, flatten, read_yaml, recipe_hash
from thesis_surrogates.core.facts import Run
from thesis_surrogates.orbits.losses import LOSSES
from thesis_surrogates.orbits.study.claims.study import CLAIMS
from thesis_surrogates.orbits.study.claims.verdicts import BEST_LOSS, HEADLINE, LEAST_PAIRS, judge_claims
from thesis_surrogates.orbits.training import WEIGHTS
from thesis_surrogates.running.registry import list_suites, load_suite, report_skipped_runs

NO_COMPARISON = {"orbits/demo", "orbits/smoke"}  # they show that everything runs
DERIVED = ("name", "question", "seed", "data.seed", "train.epochs", "train.optimizer.learning_rate")
TOGETHER = (  # keys that are one thing
    {"data.train_set", "data.test_set"},  # the plane or space: both sets share it
    {"model.features", "model.head"},  # a symmetry: features without a direction need the head that gives it one
)
SUITES = sorted(set(list_suites("orbits")) - NO_COMPARISON)


def settings(config):
    """What a run sets, without what follows from it (the weights that its loss has by itself, too) and its seeds."""
    own = LOSSES[config.train.loss].weights
    follows = {f"train.{key}" for key in WEIGHTS if getattr(config.train, key) == own.get(key)}
    values = flatten(config.model_dump(mode="json"))
    return {key: value for key, value in values.items() if key not in DERIVED and key not in follows}


def made_up(config):
    """A run of a configuration, as if it had ended with an error of one percent."""
    row = {"contender": "x", "kind": "surrogate", HEADLINE: 1.0}
    events = [{"moment": "end", BEST_LOSS: 1.0}, {"moment": "evaluated", "rows": [row]}]
    ends = {"started": "", "finished": "", "provenance": {}, "error": None, "torn": 0, "attempt": 1, "run_id": ""}
    values = config.model_dump(mode="json")
    return Run(
        path=Path("x"), status="done", config=values, config_hash="", events=events, scalars=pd.DataFrame(), **ends
    )


def is_one_thing(first, second):
    """Whether two runs differ in one thing."""
    keys = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    if "model.name" in keys:  # another model has keys of its own
        keys = {key for key in keys if not key.startswith("model.")} | {"model.name"}
    return len(keys) == 1 or keys in TOGETHER


@pytest.mark.parametrize("suite", SUITES)
def test_every_run_is_one_change_away_from_another_and_all_hang_together(suite):
    recipes = list({recipe_hash(config): settings(config) for config in load_suite(suite)}.values())
    reached, waiting = recipes[:1], recipes[1:]
    for run in reached:  # grows while it is walked
        near = [other for other in waiting if is_one_thing(run, other)]
        reached += near
        waiting = [other for other in waiting if other not in near]
    assert not waiting, f"{len(waiting)} of {len(recipes)} runs change two things of every other run: {waiting[0]}"


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_asks_one_question_and_names_its_seeds(suite):
    values = read_yaml(list_suites("orbits")[suite])
    assert values["question"].count("?") == 1 and "\n" not in values["question"]
    assert "seeds" in values and values["title"].startswith("Orbits: ")
    if suite not in (
        "orbits/comparison",
        "orbits/december_10",
    ):  # one is older than the rule, one is a grid of one seed
        assert values["seeds"]["model"] == [0, 1, 2, 3, 4] and "data" in values["seeds"]


def test_two_changes_are_not_one():
    runs = {config.name: settings(config) for config in load_suite("orbits/comparison")}
    assert not is_one_thing(runs["older_recipe"], runs["smooth_short"])
    assert is_one_thing(runs["older_longer"], runs["smooth_short"])


def test_the_sweep_of_december_leaves_out_the_points_that_leave_one_sample():
    runs, lines = load_suite("orbits/december_10"), report_skipped_runs("orbits/december_10")
    assert len(runs) == 384 and all(": 96 skipped (" in line for line in lines) and len(lines) == 2  # L = 4, L = 10
    assert {run.train.segment_length_strategy[0] for run in runs if len(run.train.length_strategy) == 3} == {18}


def test_every_claim_of_the_study_is_answered_by_a_suite_with_enough_pairs():
    answering = [name for name in SUITES if name != "orbits/december_10"]
    runs = {}
    for name in answering:
        runs |= {config_hash(config): made_up(config) for config in load_suite(name)}
    table = judge_claims(list(runs.values()), [claim for claim in CLAIMS if claim.comparisons])
    assert not len(found := table[table.verdict == "open"]), found[["claim", "reason"]].to_string()
    assert set(table.pairs) <= {LEAST_PAIRS, 25} and set(table.factor.round(6)) == {1.0}
