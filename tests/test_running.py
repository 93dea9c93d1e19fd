"""Runs, sweeps and the command line: faults, isolation, and what a user sees."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from command_line import surrogates

from thesis_surrogates.core.config import as_mapping
from thesis_surrogates.core.errors import ConfigError, DataError, FactsError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.running.execution import run, run_directory
from thesis_surrogates.running.registry import load_suite, resolve
from thesis_surrogates.running.sweeps import sweep
from thesis_surrogates.running.templates import start_run

TINY = {
    "system": "tracks",
    "model": {"name": "residual", "hidden": [16]},
    "data": {"n_tracks": 1000},
    "train": {"epochs": 2},
}


def suite_file(folder, runs, defaults=TINY):
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"defaults": defaults, "runs": runs}, sort_keys=False))
    return path


def test_a_notebook_run_gives_the_numbers_of_a_cell(tmp_path, data_dir):
    config = resolve(TINY)
    here = run(config, out=tmp_path / "here", data_dir=data_dir)
    assert start_run(config, tmp_path / "there", data_dir).wait() == 0
    there = read_run(run_directory(config, tmp_path / "there"))
    assert (
        here.scalars[here.scalars.split == "validation"].value.tolist()
        == there.scalars[there.scalars.split == "validation"].value.tolist()
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sede": 1}, "did you mean 'seed'"),
        ({"train": {"epochs": "many"}}, "train.epochs"),
        ({"train": {"optimizer": {"learning_rat": 1}}}, "did you mean 'learning_rate'"),
        ({"model": {"name": "residul"}}, "did you mean 'residual'"),
        ({"model": {"name": "residual", "hiden": [3]}}, "did you mean 'hidden'"),
        ({"system": "trakcs"}, "did you mean 'tracks'"),
    ],
)
def test_a_wrong_key_is_named_before_anything_is_written(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        run({**TINY, **change}, out=tmp_path / "runs", data_dir=tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="correct the path"):
        run({**TINY, "data": {"path": str(tmp_path / "none.h5")}}, out=tmp_path / "runs", data_dir=tmp_path / "data")
    assert not (tmp_path / "runs").exists()


def test_a_directory_of_another_configuration_is_left_alone(tmp_path, data_dir):
    config = resolve(TINY)
    run_dir = run_directory(config, tmp_path)
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(as_mapping(config) | {"seed": 77}))
    before = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(FactsError, match="belongs to the configuration"):
        run(config, out=tmp_path, data_dir=data_dir)
    assert (run_dir / "config.yaml").read_bytes() == before and len(list(run_dir.iterdir())) == 1


def test_a_sweep_survives_a_failure_and_a_kill_and_repeats_only_those(tmp_path, data_dir):
    runs = {
        "one": {},
        "fails": {"train": {"gradient_clip": None, "optimizer": {"name": "sgd", "learning_rate": 1e30}}},
        "two": {"seed": 1},
        "killed": {"seed": 2, "train": {"epochs": 400}},
    }
    configs = load_suite(suite_file(tmp_path, runs))

    def assassin(jobs):
        victim = jobs[3]
        if victim.process is not None and victim.epoch >= 2:
            kernel = json.loads((victim.run_dir / "run.json").read_text())[
                "pid"
            ]  # read first: between the kills nobody may find time to report a failure
            os.kill(kernel, signal.SIGKILL)
            os.killpg(victim.process.pid, signal.SIGKILL)

    jobs = sweep(configs, tmp_path / "runs", data_dir=data_dir, watch=assassin, period=0.1)
    assert [job.state for job in jobs] == ["done", "failed", "done", "killed"]
    error = read_run(jobs[1].run_dir).error
    assert error["type"] == "TrainingDiverged" and "Traceback" in error["traceback"] and error["epoch"] is not None
    attempts = [read_run(job.run_dir).attempt for job in jobs]
    again = sweep([configs[k] for k in (0, 1, 2)], tmp_path / "runs", data_dir=data_dir)
    assert [job.state for job in again] == ["done", "failed", "done"]
    assert [read_run(job.run_dir).attempt - before for job, before in zip(jobs, attempts, strict=True)] == [0, 1, 0, 0]


def test_two_sweeps_on_one_folder_lose_nothing(tmp_path):
    path = suite_file(tmp_path, {"a": {}, "b": {"seed": 1}, "c": {"seed": 2}})
    command = [sys.executable, "-m", "thesis_surrogates", "sweep", str(path), "--no-measure", "--workers", "2"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    facts = [read_run(path.parent) for path in sorted((tmp_path / "outputs/runs/tracks").glob("*/config.yaml"))]
    assert [run.status for run in facts] == ["done"] * 3 and all(run.torn == 0 for run in facts)
    for record in facts:
        assert sum(event["moment"] == "end" for event in record.events) == 1, "each run was trained once"


def test_an_ended_sweep_leaves_no_process_behind(tmp_path):
    path = suite_file(tmp_path, {"long": {"train": {"epochs": 5000}}})
    process = subprocess.Popen(
        [sys.executable, "-m", "thesis_surrogates", "sweep", str(path)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    record = None
    while record is None and process.poll() is None:
        time.sleep(0.2)
        record = next((p for p in tmp_path.rglob("run.json")), None)
    worker = json.loads(record.read_text())["pid"]
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{worker}")
    assert read_run(record.parent).status == "killed"


def test_help_is_quick_and_lists_the_commands(tmp_path):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        answer = surrogates("--help", cwd=tmp_path)
        times.append(time.perf_counter() - began)
    for command in ("list", "data", "run", "sweep", "status", "compare", "report", "export", "jobs", "site", "doctor"):
        assert re.search(rf"^\s+{command}\s", answer.stdout, re.M), command
    code = (
        "import sys, thesis_surrogates.cli; "
        "print([m for m in ('torch', 'pandas', 'numpy', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words, message",
    [
        (("run", "tracks/dmeo"), "no such file"),
        (("run", "tracks/dmeo"), "did you mean 'tracks/demo'"),
        (("run", "tracks/demo"), "surrogates sweep tracks/demo"),
        (("run", "tracks/demo"), "surrogates run tracks/demo:mlp"),
        (("run", "tracks/smoke:resdual"), "did you mean"),
        (("run", "tracks/smoke:residual", "--set", "train.epohcs=3"), "did you mean 'epochs'"),
        (("run", "tracks/smoke:residual", "--set", "seed"), "key=value"),
        (("run", "tracks/smoke:residual", "--device", "quantum"), "device 'quantum'"),
        (("sweep", "tracks/smok"), "did you mean 'tracks/smoke'"),
        (("sweep", "tracks/smoke", "--workers", "0"), "workers is 0"),
        (("status", "nowhere"), "no such folder"),
        (("report", "tracks/smoke"), "execute the suite first"),
        (("export", "nowhere"), "not a run directory"),
        (("data", "trakcs"), "no such suite"),
        (("list", "trakcs"), "did you mean 'tracks'"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(tmp_path, words, message):
    answer = surrogates(*words, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stderr.startswith("error: ") and message in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr and not list(tmp_path.rglob("run.json"))


def test_from_suite_to_report_and_export(tmp_path):
    path = suite_file(tmp_path, {"a": {}, "b": {"seed": 1}})
    answer = surrogates("sweep", path, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "measuring the cost of 2 surrogates" in answer.stdout
    assert "done" in surrogates("status", cwd=tmp_path).stdout
    compared = surrogates("compare", path, cwd=tmp_path).stdout
    assert "seed" in compared and "baseline" in compared and "nothing" in compared
    assert surrogates("report", path, cwd=tmp_path).returncode == 0
    report = tmp_path / "outputs/reports/tracks-suite"
    assert {"table.csv", "table.md", "table.tex", "convergence.csv", "manifest.json", "report.ipynb"} <= {
        p.name for p in report.iterdir()
    }
    run_dir = next((tmp_path / "outputs/runs/tracks").iterdir())
    for form in ("onnx", "torchscript"):
        assert surrogates("export", run_dir, "--format", form, cwd=tmp_path).returncode == 0
    again = surrogates("evaluate", run_dir, cwd=tmp_path)
    assert again.returncode == 0 and "RK4 8 steps" in again.stdout and run_dir.name in again.stdout, again.stderr
    events = (run_dir / "facts/events.jsonl").read_text()
    data = next((tmp_path / "data/tracks").glob("*.h5"))
    assert (
        surrogates("evaluate", run_dir, "--on", data, cwd=tmp_path).returncode == 0
        and (run_dir / "facts/events.jsonl").read_text() == events
    )
    for wrong in ((tmp_path,), (run_dir, "--on", "nowhere.h5")):
        refused = surrogates("evaluate", *wrong, cwd=tmp_path)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
    published = surrogates("publish", path, cwd=tmp_path)
    assert published.returncode == 0
    text = "".join(p.read_text() for p in (tmp_path / "outputs/published").rglob("*") if p.is_file())
    assert str(tmp_path) not in text and os.uname().nodename not in re.findall(r"[\w.-]+", text)


def test_the_version_is_told(tmp_path):
    from thesis_surrogates import __version__

    assert surrogates("--version", cwd=tmp_path).stdout.strip() == f"surrogates {__version__}"


def in_terminal(width, *words, cwd):
    """What a command writes to a terminal so wide."""
    import pty

    inside, outside = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": str(width)}
    process = subprocess.Popen(
        [sys.executable, "-m", "thesis_surrogates", *map(str, words)], cwd=cwd, stdout=outside, env=environment
    )
    os.close(outside)
    text = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while piece := os.read(inside, 65536):
            text += piece
    os.close(inside)
    assert process.wait(100) == 0
    return text.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_comparisons_fit_the_terminal_and_are_complete_in_a_pipe(tmp_path, width):
    rows = [
        {"contender": f"network {k}", "kind": "surrogate", "headline_mean_mm": 0.1 * k, "note": "a long remark " * 20}
        for k in range(2)
    ]
    for k, extra in enumerate(({}, {"question": "why? " * 30})):
        with open_run(
            tmp_path / f"runs/{k}",
            {
                "system": "tracks",
                "name": "a run with a name that is quite long, " * k + str(k),
                "seed": k,
                "model": {"name": "mlp", "hidden": [64] * (2 + 30 * k)},
                "data": {},
                "train": {"epochs": k},
            }
            | extra,
        ) as recorder:
            recorder.event("evaluated", {"rows": rows})
    shown = in_terminal(width, "compare", tmp_path / "runs", cwd=tmp_path)
    assert max(len(line) for line in shown.splitlines()) <= width, max(shown.splitlines(), key=len)
    assert all(word in shown for word in ("seed", "epochs", "network 1", "surrogate"))
    piped = surrogates("compare", tmp_path / "runs", "--all", cwd=tmp_path).stdout
    assert "a long remark " * 20 in re.sub(r" +", " ", piped) + " " and "…" not in piped


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    answer = surrogates("data", "tracks", "--set", "data.n_tracks=100", "--out", "file/x.h5", cwd=tmp_path)
    assert (
        answer.returncode == 2 and "nothing can be written there" in answer.stderr and "Traceback" not in answer.stderr
    )


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_a_file_with_another_dataset_is_not_taken_for_the_one_asked_for(tmp_path, ending):
    asked = ("data", "tracks", "--out", f"b.{ending}", "--set", "data.n_tracks=100", "--seed")
    assert surrogates(*asked, 1, cwd=tmp_path).returncode == 0
    before = (tmp_path / f"b.{ending}").read_bytes()
    assert surrogates(*asked, 1, cwd=tmp_path).returncode == 0
    other = surrogates(*asked, 9, cwd=tmp_path)
    assert (
        other.returncode == 2
        and "seed 1 instead of 9" in other.stderr
        and "--again" in other.stderr
        and "Traceback" not in other.stderr
    )
    assert (tmp_path / f"b.{ending}").read_bytes() == before
    assert surrogates(*asked, 9, "--again", cwd=tmp_path).returncode == 0
