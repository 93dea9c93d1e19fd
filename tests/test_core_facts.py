"""Crash safety of the run directory: random kills, torn files, two writers, foreign configurations."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thesis_surrogates.core.errors import FactsError
from thesis_surrogates.core.facts import find_runs, load_runs, natural_key, read_run
from thesis_surrogates.core.recorder import append_event, git_state, open_run, prepare_run, provenance
from thesis_surrogates.core.run_files import Appender, RunBusy, RunFiles, decode, encode, read_scalars

CONFIG = {
    "system": "toy",
    "name": "a",
    "question": "",
    "seed": 0,
    "model": {"name": "line"},
    "data": {},
    "train": {"epochs": 200},
}


def epoch_end(epoch, validation=None, train=None, details=None):
    metrics = {"train": train or {"loss": 1.0 / (1 + epoch)}, "validation": validation or {"loss": 1.1 / (1 + epoch)}}
    return SimpleNamespace(
        moment="epoch_end",
        epoch=epoch,
        step=100 * (epoch + 1),
        phase="main",
        metrics=metrics,
        seconds=0.1 * epoch,
        samples_per_second=1e4,
        details=details or {},
    )


def write_run(path, epochs, config=CONFIG, **kwargs):
    with open_run(path, config) as recorder:
        for epoch in range(epochs):
            recorder(epoch_end(epoch, **kwargs))
    return read_run(path)


# ---- crash safety

WRITER = textwrap.dedent("""
    import json, sys, time
    from types import SimpleNamespace
    from thesis_surrogates.core.recorder import open_run
    path, first, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    config = json.loads(sys.argv[4])
    recorder = open_run(path, config, provenance={})
    print("open", flush=True)
    for epoch in range(first, 200):
        metrics = {"train": {f"m{k}": k + epoch / 7 for k in range(6)}, "validation": {"loss": 1 / (1 + epoch)}}
        recorder(SimpleNamespace(moment="epoch_end", epoch=epoch, step=epoch, phase="p", metrics=metrics,
                                 seconds=0.0, samples_per_second=1.0, details={}))
        time.sleep(pause)
    recorder.finish("done")
""")


def start_writer(path, first=0, pause=0.002):
    words = [sys.executable, "-c", WRITER, str(path), str(first), str(pause), json.dumps(CONFIG)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    return process


def test_kill_at_random_moments_loses_at_most_the_last_record(tmp_path):
    rng = random.Random(0)
    for number in range(6):
        path = tmp_path / f"run{number}"
        process = start_writer(path)
        time.sleep(rng.uniform(0.0, 0.35))
        process.send_signal(signal.SIGKILL)
        process.wait()
        run = read_run(path)
        assert run.status == "killed"
        curve = run.curve("validation", "loss")
        assert list(curve.index) == list(range(len(curve)))
        assert np.allclose(curve, 1 / (1 + curve.index.to_numpy()), rtol=0, atol=0)
        epochs = [event["epoch"] for event in run.events if event["moment"] == "epoch_end"]
        assert epochs == list(range(len(epochs))) and abs(len(epochs) - len(curve)) <= 1
        assert run.torn <= 2
        with open_run(path, CONFIG) as recorder:
            for epoch in range(len(epochs), len(epochs) + 3):
                recorder(epoch_end(epoch))
        after = read_run(path)
        assert (after.status, after.attempt, after.run_id) == ("done", 2, run.run_id)
        assert list(after.curve("validation", "loss").index) == list(range(len(epochs) + 3))
        assert {event["run_id"] for event in after.events} == {run.run_id}


def test_reader_sees_a_growing_run(tmp_path):
    process = start_writer(tmp_path / "run")
    try:
        seen = [read_run(tmp_path / "run") for _ in range(20)]
    finally:
        process.kill()
        process.wait()
    assert all(run.status == "running" and run.torn == 0 for run in seen)
    assert [len(run.scalars) for run in seen] == sorted(len(run.scalars) for run in seen)


@pytest.mark.parametrize(
    "stump", ['{"a": 1', '{"moment":"epoch_end","epoch":3,"metrics":{"train":{"lo', '{"a":"\\ud8', "{"]
)
def test_torn_json_line_is_skipped_and_later_records_survive(tmp_path, stump):
    write_run(tmp_path, 3)
    files = RunFiles(tmp_path)
    with open(files.events, "ab") as stream:
        stream.write(stump.encode("utf-8", "surrogatepass"))
    before = read_run(tmp_path)
    assert before.torn == 1
    after = write_run(tmp_path, 3)
    assert after.torn == 1
    assert [
        event["epoch"] for event in after.events if event.get("attempt") == 2 and event["moment"] == "epoch_end"
    ] == [0, 1, 2]


@pytest.mark.parametrize(
    "stump",
    ["1,3,3,train,1.2", "1,300,3,train,loss,1.2", "1,300,3,train,loss,", "1,300,3,tr", "1", "1,300,3,train,loss"],
)
def test_torn_number_is_never_a_value(tmp_path, stump):
    write_run(tmp_path, 3)
    files = RunFiles(tmp_path)
    with open(files.scalars, "a") as stream:
        stream.write(stump)
    assert read_run(tmp_path).torn == 1 and read_run(tmp_path).scalars.epoch.max() == 2
    with open_run(tmp_path, CONFIG) as recorder:
        recorder(epoch_end(3))
    run = read_run(tmp_path)
    assert run.torn == 1 and run.curve("train", "loss")[3] == 0.25


def test_every_truncation_of_the_table_is_safe(tmp_path):
    whole = write_run(tmp_path / "a", 3)
    text = RunFiles(tmp_path / "a").scalars.read_bytes()
    good = {(row.epoch, row.split, row.metric): row.value for row in whole.scalars.itertuples()}
    path = tmp_path / "cut.csv"
    for length in range(len("attempt,step,epoch,split,metric,value\n"), len(text) + 1):
        path.write_bytes(text[:length])
        for reopened in (False, True):
            if reopened:
                Appender(path, torn=",torn\n").close()
            table, torn = read_scalars(path)
            assert torn == (text[length - 1 : length] != b"\n")
            for row in table.itertuples():
                assert good[row.epoch, row.split, row.metric] == row.value


def test_binary_rubbish_in_the_files(tmp_path):
    write_run(tmp_path, 3)
    for file in (RunFiles(tmp_path).events, RunFiles(tmp_path).scalars):
        with open(file, "ab") as stream:
            stream.write(b"\x00\xff\xfe" * 10 + b"\n")
    run = read_run(tmp_path)
    assert run.torn == 2 and run.scalars.epoch.max() == 2


# ---- size and identity


def test_size_grows_in_proportion(tmp_path):
    sizes = {}
    for epochs in (100, 200):
        metrics = {f"metric_{k}": 0.1 * k + 1 / 3 for k in range(8)}
        write_run(tmp_path / str(epochs), epochs, train=metrics, validation=metrics)
        files = RunFiles(tmp_path / str(epochs))
        sizes[epochs] = files.events.stat().st_size + files.scalars.stat().st_size
    assert sizes[200] / sizes[100] <= 2.1
    assert sizes[200] / 200 <= 2000


def test_a_long_epoch_record_is_cut_but_nothing_is_lost(tmp_path):
    metrics = {f"a_rather_long_metric_name_{k}": k / 3 for k in range(100)}
    run = write_run(tmp_path, 2, train=metrics)
    assert max(map(len, RunFiles(tmp_path).events.read_text().splitlines())) <= 2500
    assert run.curve("train", "a_rather_long_metric_name_99")[1] == 33.0
    assert run.last_event("epoch_end")["metrics_in"] == "scalars.csv"


def test_identity_is_kept_and_attempts_count(tmp_path):
    ids = {write_run(tmp_path, 1).run_id for _ in range(3)}
    run = read_run(tmp_path)
    assert len(ids) == 1 and run.attempt == 3 and {event["run_id"] for event in run.events} == ids
    assert [event["attempt"] for event in run.events if event["moment"] == "opened"] == [1, 2, 3]


def test_rewound_epochs_of_an_earlier_attempt_are_dropped(tmp_path):
    write_run(tmp_path, 5)
    with open_run(tmp_path, CONFIG) as recorder:
        recorder(epoch_end(2, {"loss": 7.0}))
        recorder.finish("paused")
    run = read_run(tmp_path)
    assert run.status == "paused" and list(run.curve("validation", "loss").index) == [0, 1, 2]
    assert run.curve("validation", "loss")[2] == 7.0


def test_commit_is_that_of_the_package_not_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(
        "git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x", shell=True, check=True
    )
    other = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert provenance()["git"]["commit"] != other
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "__init__.py").write_text("")
    assert git_state(tmp_path / ".venv") == {"commit": None, "dirty": None}
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    subprocess.run("git add package && git -c user.name=a -c user.email=a@b commit -q -m y", shell=True, check=True)
    assert git_state(tmp_path / "package")["dirty"] is False
    (tmp_path / "package" / "__init__.py").write_text("changed")
    assert git_state(tmp_path / "package")["dirty"] is True
    monkeypatch.setenv("PATH", "")
    assert provenance()["git"] == {"commit": None, "dirty": None}


# ---- values


def test_nan_is_valid_json_and_visible(tmp_path):
    run = write_run(tmp_path, 1, validation={"loss": math.nan, "gap": math.inf, "drop": -math.inf})
    for line in RunFiles(tmp_path).events.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    metrics = run.last_event("epoch_end")["metrics"]["validation"]
    assert math.isnan(metrics["loss"]) and metrics["gap"] == math.inf and metrics["drop"] == -math.inf
    assert math.isnan(run.curve("validation", "loss")[0]) and run.curve("validation", "gap")[0] == math.inf


def test_encode_takes_numpy_torch_and_paths():
    torch = pytest.importorskip("torch")
    record = encode(
        {"a": np.float32(np.nan), "b": np.arange(3), "c": torch.tensor(2.5), "d": Path("x"), 5: (1, None, True)}
    )
    assert record == {"a": "NaN", "b": [0, 1, 2], "c": 2.5, "d": "x", "5": [1, None, True]}
    assert math.isnan(decode(json.loads(json.dumps(record)))["a"])


def test_new_metric_later(tmp_path):
    with open_run(tmp_path, CONFIG) as recorder:
        for epoch in range(10):
            recorder(epoch_end(epoch, {"loss": 1.0} | ({"late": 2.0} if epoch >= 5 else {})))
    run = read_run(tmp_path)
    assert list(run.curve("validation", "late").index) == [5, 6, 7, 8, 9] and run.torn == 0


def test_values_come_back_exactly(tmp_path):
    values = np.random.default_rng(0).lognormal(0, 20, 50)
    run = write_run(tmp_path, 1, train={f"v{k}": value for k, value in enumerate(values)})
    assert [run.curve("train", f"v{k}")[0] for k in range(50)] == list(values)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb"])
def test_metric_names_that_would_break_the_table_are_refused(tmp_path, name):
    with open_run(tmp_path, CONFIG) as recorder, pytest.raises(FactsError, match="comma"):
        recorder(epoch_end(0, {name: 1.0}))


# ---- status


def test_queued_failed_and_interrupted(tmp_path):
    prepare_run(tmp_path / "q", CONFIG)
    queued = read_run(tmp_path / "q")
    assert (queued.status, queued.attempt, queued.events, len(queued.scalars)) == ("queued", 0, [], 0)
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "f", CONFIG) as recorder:
        recorder(epoch_end(0))
        recorder(epoch_end(1))
        _ = 1 / 0
    failed = read_run(tmp_path / "f")
    assert failed.status == "failed" and failed.error["epoch"] == 2
    assert failed.error["type"] == "ZeroDivisionError" and "test_core_facts" in failed.error["traceback"]
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "i", CONFIG):
        raise KeyboardInterrupt
    assert read_run(tmp_path / "i").status == "killed"


def test_exception_event_without_a_last_word_is_a_failure(tmp_path):
    recorder = open_run(tmp_path, CONFIG)
    event = SimpleNamespace(
        moment="exception",
        epoch=3,
        step=9,
        phase="p",
        metrics={},
        seconds=1.0,
        samples_per_second=None,
        details={"type": "ValueError", "message": "no"},
    )
    recorder(event)
    recorder.close()
    run = read_run(tmp_path)
    assert run.status == "failed" and (run.error["type"], run.error["epoch"]) == ("ValueError", 3)


def test_other_host_is_running_and_then_stale(tmp_path):
    recorder = open_run(tmp_path, CONFIG)
    recorder.state["host"] = "elsewhere"
    recorder.save_state()
    recorder.close()
    assert read_run(tmp_path).status == "running"
    for file in (tmp_path / "run.json", tmp_path / "facts/events.jsonl", tmp_path / "facts/scalars.csv"):
        os.utime(file, (time.time() - 7200, time.time() - 7200))
    assert read_run(tmp_path).status == "stale"


def test_a_later_evaluation_is_no_new_attempt(tmp_path):
    with pytest.raises(FactsError, match="never started"):
        append_event(tmp_path, "evaluated", {"rows": []})
    with open_run(tmp_path, CONFIG) as recorder:
        recorder(epoch_end(0))
        with pytest.raises(RunBusy):
            append_event(tmp_path, "evaluated", {"rows": []})
    append_event(tmp_path, "evaluated", {"rows": [{"contender": "x", "kind": "surrogate", "error_mm": 1.0}]})
    run = read_run(tmp_path)
    assert (run.status, run.attempt) == ("done", 1) and run.evaluated[0]["error_mm"] == 1.0
    assert {event["run_id"] for event in run.events} == {run.run_id}


# ---- refusals


def test_foreign_configuration_is_refused_and_nothing_is_touched(tmp_path):
    write_run(tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FactsError, match="belongs to the configuration .* choose another directory"):
        open_run(tmp_path, {**CONFIG, "seed": 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert write_run(tmp_path, 2, {**CONFIG, "question": "another wording"}).attempt == 2


def test_second_opener_is_refused(tmp_path):
    with open_run(tmp_path, CONFIG) as recorder:
        with pytest.raises(RunBusy, match="another process"):
            open_run(tmp_path, CONFIG)
        recorder(epoch_end(0))
    assert read_run(tmp_path).attempt == 1


def test_many_openers_and_readers_at_once(tmp_path):
    outcomes = []

    def work():
        try:
            recorder = open_run(tmp_path, CONFIG, provenance={})
            time.sleep(2.0)
            recorder.finish("done")
            outcomes.append("wrote")
        except RunBusy:
            outcomes.append("busy")

    prepare_run(tmp_path, CONFIG)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read_run(tmp_path).status in ("queued", "running", "done")
        time.sleep(0.02)
    assert sorted(outcomes) == ["busy"] * 5 + ["wrote"] and read_run(tmp_path).attempt == 1


@pytest.mark.parametrize(
    ("name", "text"), [("config.yaml", "a: [1"), ("config.yaml", "- 1"), ("run.json", '{"run_id"')]
)
def test_broken_state_is_named(tmp_path, name, text):
    write_run(tmp_path, 1)
    (tmp_path / name).write_text(text)
    with pytest.raises(FactsError, match=name):
        read_run(tmp_path)
    with pytest.raises(FactsError, match=name):
        open_run(tmp_path, CONFIG)
    assert (tmp_path / name).read_text() == text
    assert load_runs(tmp_path).status[0] == "unreadable"


def test_not_a_run(tmp_path):
    with pytest.raises(FactsError, match="not a run directory"):
        read_run(tmp_path / "nothing")
    with pytest.raises(FactsError, match="no such folder"):
        find_runs(tmp_path / "nothing")


# ---- many runs


def test_natural_order_and_nested_folders(tmp_path):
    for name in ("job10", "job2", "job1", "deep/er/job3"):
        write_run(tmp_path / name, 1, {**CONFIG, "name": name})
    assert [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)] == [
        "deep/er/job3",
        "job1",
        "job2",
        "job10",
    ]
    assert find_runs(tmp_path / "job2") == [tmp_path / "job2"]
    assert sorted(["a10b", "a9b", "a", "10", "9", ""], key=natural_key) == ["", "9", "10", "a", "a9b", "a10b"]


def test_table_of_runs_has_swept_keys_scores_and_duplicates(tmp_path):
    for number, (width, seed) in enumerate([(8, 0), (8, 1), (16, 0), (8, 0)]):
        config = {**CONFIG, "seed": seed, "model": {"name": "mlp", "width": width}}
        with open_run(tmp_path / str(number), config) as recorder:
            recorder(epoch_end(0, {"loss": 0.5}))
            recorder(epoch_end(1, {"loss": 0.25}))
            recorder.event(
                "evaluated",
                {
                    "rows": [
                        {"contender": "zero", "kind": "nothing", "error_mm": 9.0},
                        {"contender": "mlp", "kind": "surrogate", "error_mm": 1.0 / width, "parameters": width},
                    ]
                },
            )
    table = load_runs(tmp_path)
    assert list(table["model.width"]) == [8, 8, 16, 8] and list(table.duplicate) == [False, False, False, True]
    assert list(table.error_mm) == [0.125, 0.125, 0.0625, 0.125] and list(table.seed) == [0, 1, 0, 0]
    assert (table.best_loss == 0.25).all() and (table.validation_loss == 0.25).all() and (table.epochs == 2).all()
    (tmp_path / "empty").mkdir()
    assert len(load_runs(tmp_path / "empty")) == 0


def test_reading_many_runs_is_quick(tmp_path):
    for number in range(40):
        write_run(tmp_path / str(number), 1, {**CONFIG, "seed": number})
    start = time.perf_counter()
    table = load_runs(tmp_path)
    assert len(table) == 40 and time.perf_counter() - start < 10


def test_importing_facts_does_not_load_torch():
    code = (
        "import sys, thesis_surrogates.core.facts, thesis_surrogates.core.report, "
        "thesis_surrogates.core.publishing; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_configuration_is_hashed_once_when_a_run_is_opened(tmp_path, monkeypatch):
    from thesis_surrogates.core import recorder

    counted = []
    monkeypatch.setattr(recorder, "config_hash", lambda config: counted.append(1) or "0123456789")
    with recorder.open_run(tmp_path, CONFIG) as opened:
        assert opened.state["config_hash"] == "0123456789" and len(counted) == 1
