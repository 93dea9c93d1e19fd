"""Job files of a suite: their text, what a shell makes of it, and names that must never reach one."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml
from command_line import surrogates

from thesis_surrogates.core.config import read_yaml
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.running.jobs import PLAIN, Request, job_files, run_files
from thesis_surrogates.running.registry import load_suite, resolve


def test_every_run_is_complete_and_is_the_run_of_the_suite():
    files, suite = run_files("tracks/smoke"), load_suite("tracks/smoke")
    assert [resolve(yaml.safe_load(text)) for text in files.values()] == suite
    repeated = run_files("tracks/smoke", seeds=[3, 4])
    assert len(repeated) == 2 * len(suite)
    assert [resolve(yaml.safe_load(text)).seed for text in repeated.values()] == [3] * len(suite) + [4] * len(suite)


def test_the_command_line_writes_what_a_shell_executes(tmp_path):
    answer = surrogates(
        "jobs",
        "tracks/smoke",
        "--scheduler",
        "slurm",
        "--out",
        "a/b",
        "--hours",
        "1",
        "--program",
        "echo",
        cwd=tmp_path,
    )
    assert answer.returncode == 0 and "sbatch a/b/array.sh" in answer.stdout, answer.stderr
    listed = (tmp_path / "a/b/runs.txt").read_text().splitlines()
    for number, name in enumerate(listed, start=1):
        done = subprocess.run(
            ["bash", "a/b/array.sh"],
            cwd=tmp_path,
            env={"SLURM_ARRAY_TASK_ID": str(number), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"run a/b/{name} --budget 3300\n" and not done.stderr
        assert read_yaml(tmp_path / "a/b" / name)["system"] == "tracks"
    answer = surrogates(
        "jobs", "tracks/smoke", "--scheduler", "htcondor", "--out", "c", "--gpus", "1", "--seeds", "0,1", cwd=tmp_path
    )
    assert answer.returncode == 0 and f"{2 * len(listed)} runs" in answer.stdout, answer.stderr
    text = (tmp_path / "c/jobs.sub").read_text()
    assert (
        'arguments = "run c/$(file) --budget 6900"' in text
        and "request_gpus = 1" in text
        and text.endswith("queue file from c/runs.txt\n")
    )


def test_a_grid_over_lists_has_names_for_its_files(tmp_path):
    run = {"system": "orbits", "model": {"name": "neural_ode"}}
    grid = {"train.length_strategy": [[[0.0, 0.5], [0.0, 1.0]], [[0.0, 1.0]]]}
    suite = {"title": "t", "question": "q", "defaults": run, "grid": grid}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    files = run_files(tmp_path / "suite.yaml")
    assert len(files) == 2 and all(PLAIN.fullmatch(name) for name in files)
    assert all(yaml.safe_load(text)["train"]["length_strategy"] for text in files.values())


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "a`id`", 'a"', "a;b", "../a", "-a"])
def test_a_name_that_means_more_is_refused(tmp_path, name):
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump({"title": "t", "question": "q", "runs": {name: {"system": "tracks", "model": {"name": "mlp"}}}})
    )
    with pytest.raises(ConfigError):
        run_files(tmp_path / "suite.yaml")
    for where in ({"folder": name}, {"folder": "jobs", "program": name}):
        if name != "../a":  # a folder may lie there
            with pytest.raises(ConfigError, match="choose another name"):
                job_files("tracks/smoke", "slurm", **where)


@pytest.mark.parametrize(
    "words, message",
    [
        (("jobs", "tracks/smoke", "--scheduler", "slrm"), "did you mean 'slurm'"),
        (("jobs", "tracks/smok", "--scheduler", "slurm"), "did you mean 'tracks/smoke'"),
        (("jobs", "tracks/smoke", "--scheduler", "slurm", "--hours", "0.1"), "hours is 0.1"),
        (("jobs", "tracks/smoke", "--scheduler", "slurm", "--out", "my jobs"), "choose another name"),
    ],
)
def test_a_wrong_word_about_jobs_is_answered_in_one_line(tmp_path, words, message):
    answer = surrogates(*words, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stderr.startswith("error: ") and message in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr and not list(tmp_path.iterdir())


def test_numbers_that_make_no_job_are_refused():
    with pytest.raises(ConfigError, match="at least one processor"):
        Request(cpus=0)
