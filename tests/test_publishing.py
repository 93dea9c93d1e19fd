"""Published facts: each run once, each baseline once for a dataset, nothing lost, and what cannot be read is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, strategies

from thesis_surrogates.core import publishing
from thesis_surrogates.core.errors import FactsError
from thesis_surrogates.core.facts import load_runs, read_run
from thesis_surrogates.core.packing import Head, pack_lines, read_head, unpack
from thesis_surrogates.core.publishing import CURVE_POINTS, LARGE_SUITE_RUNS, publish, read_published
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.core.run_files import encode, to_line
from thesis_surrogates.core.tables import comparison_table, convergence_table
from thesis_surrogates.running import results
from thesis_surrogates.running.registry import load_suite

FILES = ("runs.jsonl", "baselines.jsonl", "scalars.csv")


def trained(folder, name, *, seed=0, epochs=4, error=0.1, cost=0.2, data="d" * 16, extra=None):
    """A run with curves and a comparison, as a training writes them."""
    config = {
        "system": "toy",
        "name": name,
        "seed": seed,
        "model": {"name": name},
        "data": {},
        "train": {"epochs": epochs},
    }
    origin = {"data_fingerprint": data, "processor": "abacus", "threads": 1, "device": "cpu"}
    with open_run(folder / f"{name}-{seed}", config, provenance=origin) as recorder:
        recorder.event("start", {"epoch": 0, "monitor": "loss", "seconds": 0.0})
        for epoch in range(epochs):
            loss = error + 0.9**epoch if epoch < 0.7 * epochs else error + 0.5  # ends above its best
            recorder(
                SimpleNamespace(
                    moment="epoch_end",
                    epoch=epoch,
                    step=10 * epoch,
                    phase="",
                    seconds=0.5 * epoch,
                    samples_per_second=1.0,
                    details={},
                    metrics={"train": {"loss": 0.9**epoch, "pde": 0.8**epoch}, "validation": {"loss": loss}},
                )
            )
        recorder.event("end", {"seconds": 0.5 * epochs, "best_epoch": 1})
        recorder.event(
            "evaluated",
            {
                "rows": [
                    {
                        "contender": "idle",
                        "kind": "nothing",
                        "parameters": 0,
                        "cost_us": cost / 10,
                        "error_mm": 300.0,
                        **(extra or {}),
                    },
                    {
                        "contender": "RK4 4 steps",
                        "kind": "baseline",
                        "parameters": 0,
                        "cost_us": cost,
                        "error_mm": 1 / 3,
                        **(extra or {}),
                    },
                    {"contender": name, "kind": "surrogate", "parameters": 7, "cost_us": 0.1, "error_mm": error},
                ]
            },
        )
    return folder / f"{name}-{seed}"


def records_of(file):
    """What the lines of a published file hold, the head left out."""
    head, *lines = file.read_text().splitlines()
    return [unpack(json.loads(line), read_head(head)) for line in lines]


def write_records(file, records):
    file.write_text("".join(pack_lines(records)))


def text_of(folder):
    return {
        str(file.relative_to(folder)): file.read_text() for file in sorted(Path(folder).rglob("*")) if file.is_file()
    }


def same(run, other):
    """Whether tables see the same run."""
    pd.testing.assert_frame_equal(run.scalars, other.scalars)
    assert (
        run.evaluated == other.evaluated
        and run.seconds == other.seconds
        and run.config == other.config
        and run.provenance == other.provenance
    )
    assert (run.run_id, run.config_hash, run.status, run.attempt, run.started, run.finished) == (
        other.run_id,
        other.config_hash,
        other.status,
        other.attempt,
        other.started,
        other.finished,
    )


def test_a_run_is_a_line_and_a_baseline_stands_once(tmp_path):
    paths = [trained(tmp_path / "runs", "net", seed=seed, cost=0.2 + seed) for seed in range(3)]
    names = publish(paths, tmp_path / "published", lambda config: "first")
    home = tmp_path / "published" / "toy"
    assert sorted(file.name for file in (home / "first").iterdir()) == sorted(FILES) and len(names) == 3
    lines = records_of(home / "first" / "runs.jsonl")
    assert [line["format"] for line in lines] == [2, 2, 2]
    assert sorted(line["baselines"]["RK4 4 steps"] for line in lines) == [0.2, 1.2, 2.2]
    assert len(records_of(home / "first" / "baselines.jsonl")) == 2
    runs, unread = read_published(home)
    assert not unread
    for run in runs:
        same(run, next(found for found in map(read_run, paths) if found.config_hash == run.config_hash))
    pd.testing.assert_frame_equal(
        comparison_table(runs, ["error_mm"], "error_mm"), comparison_table(paths, ["error_mm"], "error_mm")
    )


def test_metrics_of_another_dataset_or_version_are_kept_apart(tmp_path):
    paths = [
        trained(tmp_path / "runs", "a"),
        trained(tmp_path / "runs", "b", data="e" * 16),
        trained(tmp_path / "runs", "c", extra={"spread_mm": 1.0}),
    ]
    publish(paths, tmp_path / "published")
    runs = read_published(tmp_path / "published" / "toy")[0]
    for run, path in zip(runs, paths, strict=True):
        same(run, read_run(path))
    folder = tmp_path / "published/toy/other"
    assert len(records_of(folder / "baselines.jsonl")) == 6
    assert any("RK4 4 steps#2" in record["baselines"] for record in records_of(folder / "runs.jsonl"))


def test_publishing_again_changes_nothing_and_a_new_attempt_replaces_its_line(tmp_path):
    paths = [trained(tmp_path / "runs", name) for name in ("a", "b")]
    publish(paths, tmp_path / "published", lambda config: "first")
    before = text_of(tmp_path / "published")
    publish(paths[::-1], tmp_path / "published", lambda config: "another")  # a run stays where it stands
    publish(paths[:1], tmp_path / "published")
    assert text_of(tmp_path / "published") == before
    trained(tmp_path / "runs", "a", error=0.7, extra={"spread_mm": 1.0})
    publish(paths[:1], tmp_path / "published")
    runs = read_published(tmp_path / "published" / "toy")[0]
    same(runs[0], read_run(paths[0]))
    same(runs[1], read_run(paths[1]))
    assert len(runs) == 2 and runs[0].attempt == 2 and runs[0].evaluated[-1]["error_mm"] == 0.7
    publish([trained(tmp_path / "again", "a"), trained(tmp_path / "again", "b")], tmp_path / "published")
    known = records_of(tmp_path / "published/toy/first/baselines.jsonl")
    assert len(known) == 2  # nothing refers to the others now


def test_long_curves_are_thinned_and_say_what_the_whole_curve_says(tmp_path):
    path = trained(tmp_path / "runs", "long", epochs=700)
    publish([path], tmp_path / "published")
    (run,), whole = read_published(tmp_path / "published" / "toy")[0], read_run(path)
    for split, metric in (("train", "loss"), ("train", "pde"), ("validation", "loss")):
        thin, full = run.curve(split, metric), whole.curve(split, metric)
        assert 30 < len(thin) <= CURVE_POINTS
        assert {0, 699, full.idxmin()} <= set(thin.index) and thin.equals(full[thin.index])
    pd.testing.assert_frame_equal(convergence_table([run]), convergence_table([whole]))
    assert convergence_table([run]).overfit[0] and convergence_table([run]).epochs[0] == 700
    folder = tmp_path / "published/toy/other"
    before = [records_of(folder / name) for name in FILES[:2]], (folder / FILES[2]).read_text().splitlines()
    publish([trained(tmp_path / "runs", "short")], tmp_path / "published")
    publish([path], tmp_path / "published")
    after = [records_of(folder / name) for name in FILES[:2]]
    assert all(record in new for old, new in zip(before[0], after, strict=True) for record in old)
    assert set(before[1]) <= set((folder / FILES[2]).read_text().splitlines())


def test_a_large_suite_has_no_curves(tmp_path, monkeypatch):
    assert LARGE_SUITE_RUNS == 36
    monkeypatch.setattr(publishing, "LARGE_SUITE_RUNS", 2)
    paths = [trained(tmp_path / "runs", name, epochs=50) for name in ("a", "b", "c")]
    publish(paths[:2], tmp_path / "published")
    assert all(len(run.scalars) for run in read_published(tmp_path / "published" / "toy")[0])
    publish(paths[2:], tmp_path / "published")
    runs = read_published(tmp_path / "published" / "toy")[0]
    assert len(runs) == 3 and not any(len(run.scalars) for run in runs)
    assert (tmp_path / "published/toy/other/scalars.csv").read_text() == "run,attempt,step,epoch,split\n"
    whole = [read_run(path) for path in paths]
    pd.testing.assert_frame_equal(convergence_table(runs), convergence_table(whole))
    assert [run.evaluated for run in runs] == [run.evaluated for run in whole]


def test_a_later_format_is_refused_by_name(tmp_path):
    path = trained(tmp_path / "runs", "new")
    state = json.loads((path / "run.json").read_text())
    assert state["format"] == 1
    del state["format"]
    (path / "run.json").write_text(json.dumps(state))
    assert read_run(path).status == "done"  # facts of before
    (path / "run.json").write_text(json.dumps({**state, "format": 2}))
    with pytest.raises(
        FactsError, match=r"new-0/run\.json: facts of format 2, this version reads up to 1; update thesis_surrogates"
    ):
        read_run(path)
    with pytest.raises(FactsError, match="format 2"), open_run(path, read_config_of(path), provenance={}):
        pass
    assert (
        load_runs(tmp_path / "runs").status[0] == "unreadable"
        and json.loads((path / "run.json").read_text())["format"] == 2
    )


def read_config_of(path):
    import yaml

    return yaml.safe_load((path / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda line: line[: len(line) // 2], "not a run"),
        (lambda line: line.replace('"format":2', '"format":3'), "format 3, this version reads up to 2"),
        (lambda line: line.replace('"name":"a"', '"nom":"a"').replace('"config":', '"configs":'), "'config'"),
        (lambda line: "[]", "not a run"),
        (lambda line: line.replace('"provenance"', '"origin"'), "provenance"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_kept_and_mended(tmp_path, harm, word):
    paths = [trained(tmp_path / "runs", name) for name in ("a", "b")]
    publish(paths, tmp_path / "published")
    file = tmp_path / "published/toy/other/runs.jsonl"
    head, first, second = file.read_text().splitlines()
    assert harm(first) != first
    file.write_text(f"{head}\n{harm(first)}\n{second}\n")
    runs, unread = read_published(tmp_path / "published" / "toy")
    assert [run.config["name"] for run in runs] == ["b"]
    assert [problem.name for problem in unread] == ["other/runs.jsonl, line 2"] and word in unread[0].reason
    publish([trained(tmp_path / "runs", "c")], tmp_path / "published")
    assert harm(first) in file.read_text().splitlines()  # another version may read it
    file.write_text(file.read_text().replace(harm(first), first))
    runs = read_published(tmp_path / "published" / "toy")[0]
    assert [run.config["name"] for run in runs] == ["a", "b", "c"]
    same(runs[0], read_run(paths[0]))


def test_a_broken_line_is_replaced_by_its_run(tmp_path):
    paths = [trained(tmp_path / "runs", name) for name in ("a", "b")]
    publish(paths, tmp_path / "published")
    good, file = text_of(tmp_path / "published"), tmp_path / "published/toy/other/runs.jsonl"
    file.write_text(file.read_text().replace('"provenance"', '"origin"', 1))
    publish(paths[:1], tmp_path / "published")
    assert text_of(tmp_path / "published") == good


def test_a_line_names_the_baseline_that_it_misses(tmp_path):
    publish([trained(tmp_path / "runs", name) for name in ("a", "b")], tmp_path / "published")
    file = tmp_path / "published/toy/other/runs.jsonl"
    first, second = records_of(file)
    first["baselines"]["RK4 5 steps"] = first["baselines"].pop("RK4 4 steps")
    write_records(file, [first, second])
    runs, unread = read_published(tmp_path / "published" / "toy")
    assert len(runs) == 1 and len(unread) == 1 and "RK4 5 steps" in unread[0].reason


def test_facts_of_format_1_are_read_and_written_anew(tmp_path):
    """One line a run without a head, and one row a value, as they were before facts were packed."""
    paths = [trained(tmp_path / "runs", name) for name in ("a", "b")]
    publish(paths, tmp_path / "published")
    now, folder = text_of(tmp_path / "published"), tmp_path / "published/toy/other"
    records = [{**record, "format": 1} for record in records_of(folder / "runs.jsonl")]
    (folder / "runs.jsonl").write_text("".join(map(to_line, records)))
    (folder / "baselines.jsonl").write_text("".join(map(to_line, records_of(folder / "baselines.jsonl"))))
    rows = [
        f"{run.config_hash},{','.join(map(str, row))}\n"
        for run in map(read_run, paths)
        for row in run.scalars.itertuples(index=False, name=None)
    ]
    (folder / "scalars.csv").write_text("run,attempt,step,epoch,split,metric,value\n" + "".join(rows))
    runs, unread = read_published(tmp_path / "published" / "toy")
    assert not unread
    for run, path in zip(runs, paths, strict=True):
        same(run, read_run(path))
    publish(paths[:1], tmp_path / "published")
    assert text_of(tmp_path / "published") == now


def test_runs_without_their_head_are_told_and_not_written_over(tmp_path):
    publish([trained(tmp_path / "runs", name) for name in ("a", "b")], tmp_path / "published")
    file = tmp_path / "published/toy/other/runs.jsonl"
    head, *lines = file.read_text().splitlines(keepends=True)
    for rest in ("".join(lines), head[: len(head) // 2] + "\n" + "".join(lines)):
        file.write_text(rest)
        runs, unread = read_published(tmp_path / "published" / "toy")
        assert not runs and "which the first line of the file does not hold" in unread[-1].reason
        with pytest.raises(FactsError, match="restore the files, then publish again"):
            publish([trained(tmp_path / "runs", "c")], tmp_path / "published")
        assert file.read_text() == rest


KEYS = strategies.sampled_from(["a", "b", "c", "moment", "$", "="])
FACTS = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False)
    # texts on both sides of the length from which a part has a name; NaN and infinities are texts in JSON
    | strategies.sampled_from(["", "short", "NaN", "a text that is longer than thirty characters"]),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(strategies.lists(strategies.dictionaries(KEYS, FACTS, max_size=4), min_size=1, max_size=4))
def test_packing_loses_nothing(facts):
    records = [{"format": 2, "facts": one} for one in [*facts, facts[0]]]
    first, *lines = pack_lines(records)
    assert [unpack(json.loads(line), read_head(first)) for line in lines] == encode(records)
    again, *lines = pack_lines(records[::-1], read_head(first))  # of a file that keeps its head
    assert [unpack(json.loads(line), read_head(again)) for line in lines] == encode(records[::-1])


def test_a_head_that_holds_itself_is_told():
    with pytest.raises(FactsError, match="holds itself"):
        unpack({"$": "a"}, Head({"a": {"$": "a"}}))


@pytest.mark.parametrize("name", ["baselines.jsonl", "scalars.csv"])
def test_nothing_is_written_beside_torn_metrics_and_curves(tmp_path, name):
    publish([trained(tmp_path / "runs", "a")], tmp_path / "published")
    file = tmp_path / "published/toy/other" / name
    file.write_text(file.read_text()[:-9])
    before = text_of(tmp_path / "published")
    with pytest.raises(FactsError, match="restore the files, then publish again"):
        publish([trained(tmp_path / "runs", "b")], tmp_path / "published")
    assert text_of(tmp_path / "published") == before


def publish_and_die(paths, folder, after):
    """Publish, and be killed at the replacement with this number."""
    done, original = [], publishing.replace_text

    def replace_or_die(path, text):
        if len(done) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)
        original(path, text)

    publishing.replace_text = replace_or_die
    publish(paths, folder)


@pytest.mark.parametrize("after", range(4))
def test_a_kill_loses_no_run(tmp_path, after):
    old = [trained(tmp_path / "runs", name) for name in ("a", "b")]
    publish(old, tmp_path / "published")
    new = trained(tmp_path / "runs", "c", extra={"spread_mm": 2.0})
    process = multiprocessing.get_context("fork").Process(
        target=publish_and_die, args=([new, old[0]], tmp_path / "published", after)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    runs, unread = read_published(tmp_path / "published" / "toy")
    assert not unread and [run.config["name"] for run in runs] == ["a", "b", "c"][: 3 if after >= 3 else 2]
    for run, path in zip(runs, [*old, new], strict=False):
        same(run, read_run(path))
    publish([new], tmp_path / "published")
    publish([*old, new], tmp_path / "clean")
    assert [
        same(*pair)
        for pair in zip(
            read_published(tmp_path / "published" / "toy")[0],
            read_published(tmp_path / "clean" / "toy")[0],
            strict=True,
        )
    ]


def publish_one(path, folder):
    publish([path], folder)


def test_processes_wait_for_each_other(tmp_path):
    paths = [trained(tmp_path / "runs", f"net{number}") for number in range(6)]
    processes = [
        multiprocessing.get_context("fork").Process(target=publish_one, args=(path, tmp_path / "published"))
        for path in paths
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(read_published(tmp_path / "published" / "toy")[0]) == 6


def test_reading_sees_a_replaced_file(tmp_path):
    publish([trained(tmp_path / "runs", "a")], tmp_path / "published")
    assert len(read_published(tmp_path / "published" / "toy")[0]) == 1
    publish([trained(tmp_path / "runs", "b")], tmp_path / "published")
    assert len(read_published(tmp_path / "published" / "toy")[0]) == 2


@pytest.fixture
def small_copy(tmp_path):
    """The published orbits, to be broken."""
    folder = tmp_path / "published"
    source = results.published_folder(Path(__file__).parent)
    for name in FILES:
        file = folder / "orbits" / "comparison" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((source / "orbits" / "comparison" / name).read_text())
    return folder


def test_pages_say_how_many_runs_this_version_cannot_read(small_copy):
    assert (
        results.left_out(small_copy, ["orbits", "flavor"]) == ""
        and len(results.published_runs("orbits", small_copy)) == 9
    )
    words = results.summary_markdown(small_copy)
    assert "could not be read" not in words
    file = small_copy / "orbits/comparison/runs.jsonl"
    first, second, *others = records_of(file)
    second["config"]["train"]["epochen"] = second["config"]["train"].pop("epochs")  # of another version
    write_records(file, [{**first, "format": 99}, second, *others])
    text = results.left_out(small_copy, ["orbits"])
    assert "**2 published runs could not be read by this version and are left out:**" in text
    assert "comparison/runs.jsonl, line 2: facts of format 99" in text and "epochen" in text
    assert (
        len(results.published_runs("orbits", small_copy))
        == len(results.suite_runs("orbits", "comparison", small_copy))
        == 7
    )
    assert text in results.summary_markdown(small_copy)


def test_every_run_stands_in_the_folder_of_its_suite():
    folder = results.published_folder(Path(__file__).parent)
    for system in results.SYSTEMS:
        runs = results.published_runs(system, folder)
        assert len({run.config_hash for run in runs}) == len(runs)
        assert all(run.path.parent.name in (results.suites_of(run.config) or ["other"]) for run in runs)
    config = load_suite("orbits/comparison")[0].model_dump()
    assert results.suite_of({**config, "seed": 77}) == "comparison"
    (shared,) = (run.model_dump() for run in load_suite("orbits/seeds", seeds=[0])[:1])
    holding = results.suites_of(shared)
    assert len(holding) > 1 and [results.suite_of(shared, name) for name in holding] == holding
    assert results.suite_of(shared, "comparison") == results.suite_of(shared) == holding[0]
    assert (
        results.suite_of({"system": "orbits", "model": {"name": "nothing like it"}})
        == results.suite_of({"system": "toy"})
        == "other"
    )


def test_published_facts_stay_small():
    folder = results.published_folder(Path(__file__).parent)
    files = [file for file in folder.glob("*/*/*") if file.is_file()]
    assert len(files) <= 3 * len(list(folder.glob("*/*/"))) and {file.name for file in files} == set(FILES)
    studies = [file for file in folder.rglob("*") if file.is_file() and file not in files]  # that train nothing
    assert all(file.suffix == ".csv" and file.stat().st_size < 50_000 for file in studies)
    assert (
        sum(file.stat().st_size for file in files)
        / len([line for file in folder.rglob("runs.jsonl") for line in file.open()])
        < 10_000
    )  # bytes a run


def test_thousand_runs_are_read_in_seconds(tmp_path):
    text = (results.published_folder(Path(__file__).parent) / "flavor/comparison/runs.jsonl").read_text()
    baselines = (results.published_folder(Path(__file__).parent) / "flavor/comparison/baselines.jsonl").read_text()
    (tmp_path / "flavor/many").mkdir(parents=True)
    (tmp_path / "flavor/many/runs.jsonl").write_text(text * 110)
    (tmp_path / "flavor/many/baselines.jsonl").write_text(baselines)
    start = time.perf_counter()
    assert len(read_published(tmp_path / "flavor")[0]) == 990 and time.perf_counter() - start < 30
