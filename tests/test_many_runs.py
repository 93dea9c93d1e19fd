"""Several runs in one process: each as if it were alone, also when one of them fails or ends the process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from thesis_surrogates import cli
from thesis_surrogates.core.config import as_mapping
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.recorder import prepare_run
from thesis_surrogates.running.datasets import dataset_path, ensure_dataset
from thesis_surrogates.running.execution import run, run_directory
from thesis_surrogates.running.registry import get_system, load_suite, resolve
from thesis_surrogates.running.shared_process import (
    BaselinesOnce,
    execute_run,
    request_of,
    serve_requests,
    unchanged_process,
)
from thesis_surrogates.running.sweeps import sweep
from thesis_surrogates.running.templates import make_notebook

TINY = {
    "system": "tracks",
    "model": {"name": "residual", "hidden": [16]},
    "data": {"n_tracks": 1000},
    "train": {"epochs": 2, "batch_size": 256},
}


def numbers(run_dir):
    """All that a run has computed: rows of the curves, rows of the comparison without costs, weights."""
    facts = read_run(run_dir)
    curves = facts.scalars.drop(columns="attempt")
    rows = [{key: value for key, value in row.items() if key != "cost_us"} for row in facts.evaluated]
    return curves, rows, torch.load(run_dir / "checkpoints" / "best.pt", weights_only=True)["model"]


def same(first, second):
    """Whether two runs have the same numbers to the last bit."""
    weights = [{name: tensor.numpy().tobytes() for name, tensor in one[2].items()} for one in (first, second)]
    return first[0].equals(second[0]) and json.dumps(first[1]) == json.dumps(second[1]) and weights[0] == weights[1]


def ask(config, out, data_dir, **options):
    """The request for a run whose directory and dataset are there."""
    run_dir = run_directory(config, out)
    prepare_run(run_dir, as_mapping(config))
    ensure_dataset(get_system(config.system), config.data, data_dir)
    return request_of(config, run_dir, dataset_path(config.system, config.data, data_dir), data_dir, **options)


def test_a_run_between_others_has_the_numbers_of_the_run_alone(tmp_path, data_dir, smoke_runs, system_name):
    alone = smoke_runs(system_name)
    config = resolve(alone.config)
    others = [resolve({**alone.config, "seed": seed}) for seed in (17, 18)]
    requests = [ask(one, tmp_path, data_dir) for one in (others[0], config, others[1])]
    heard = []
    with unchanged_process() as changed:
        serve_requests(requests, heard.append)
    assert changed == [] and not any((Path(one["run_dir"]) / "log.txt").read_text() for one in requests)
    assert [line.get("code") for line in heard[1::2]] == [0, 0, 0]
    run_dir = run_directory(config, tmp_path)
    assert same(numbers(alone.path), numbers(run_dir))
    assert not same(numbers(run_directory(others[0], tmp_path)), numbers(run_directory(others[1], tmp_path)))
    missing = {path.name for path in alone.path.iterdir()} - {path.name for path in run_dir.iterdir()}
    assert (
        missing <= {"figures", "notebook.ipynb"} and "surrogates notebook" in read_run(run_dir).provenance["notebook"]
    )


def test_what_a_run_changes_in_its_process_is_put_back_and_named(tmp_path, data_dir, monkeypatch):
    module = "thesis_surrogates.running.shared_process.execute_run"

    def rude(request, baselines):
        os.chdir(tmp_path)
        os.environ["RUDE"] = "yes"
        np.random.seed(1)  # noqa: NPY002
        torch.rand(3)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        torch.set_default_dtype(torch.float64)
        return 0

    monkeypatch.setattr(module, rude)
    request = ask(resolve(TINY), tmp_path / "runs", data_dir)
    before = os.getcwd(), torch.get_rng_state().tolist(), torch.get_default_dtype(), dict(os.environ)
    serve_requests([request], lambda line: None)
    assert before == (os.getcwd(), torch.get_rng_state().tolist(), torch.get_default_dtype(), dict(os.environ))
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    log = (run_directory(resolve(TINY), tmp_path / "runs") / "log.txt").read_text()
    assert "torch's global generator, numpy's global generator, default type of tensors, working directory" in log


def test_a_paused_run_goes_on_exactly_in_a_process_with_others(tmp_path, data_dir):
    config = resolve({**TINY, "train": {"epochs": 4, "batch_size": 64}})
    whole = run(config, out=tmp_path / "whole", data_dir=data_dir)
    other = ask(resolve({**TINY, "seed": 9}), tmp_path / "parts", data_dir)
    request, attempts = ask(config, tmp_path / "parts", data_dir), 0
    while read_run(request["run_dir"]).status != "done":
        budget = 0.0 if attempts < 3 else None
        assert execute_run({**request, "budget_seconds": budget}, BaselinesOnce()) == 0
        if not attempts:
            assert read_run(request["run_dir"]).status == "paused"
            assert execute_run(other, BaselinesOnce()) == 0
        attempts += 1
    parts = numbers(run_directory(config, tmp_path / "parts"))
    assert attempts == 4 and same(numbers(whole.path), parts)


@pytest.mark.parametrize("end", ["kill", "exit", "crash"])
def test_a_run_that_ends_its_process_is_named_and_the_others_go_on(tmp_path, data_dir, monkeypatch, end):
    """The victim is the third of five runs of one process; what it does is planted where the process starts."""
    deeds = {
        "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "exit": "import os; os._exit(3)",
        "crash": "import ctypes; ctypes.string_at(0)",
    }
    planted = f"""
import thesis_surrogates.core.training as training
real = training.ask_watchers
original = training._Training.run_epoch
def run_epoch(self, stage):
    if self.seed == 2 and self.at.epoch == 1:
        {deeds[end]}
    return original(self, stage)
training._Training.run_epoch = run_epoch
"""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "planted.py").write_text(planted)
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nif 'thesis_surrogates.running.shared_process' in ' '.join(sys.orig_argv):\n    import planted\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    configs = [resolve({**TINY, "seed": seed}) for seed in range(5)]
    options = {"data_dir": data_dir, "workers": 1, "period": 0.05, "per_process": 5}
    jobs = sweep(configs, tmp_path / "runs", **options)
    assert [job.state for job in jobs] == ["done", "done", "killed", "done", "done"]
    word = {"kill": "SIGKILL", "exit": "exit code 3", "crash": "SIGSEGV"}[end]
    facts = read_run(jobs[2].run_dir)
    assert facts.status == "killed" and facts.error["type"] == "ProcessEnded" and word in facts.error["message"]
    assert facts.error["epoch"] == 1 and word in jobs[2].message and facts.events[-1]["status"] == "killed"
    assert (end == "crash") == ("Segmentation fault" in (jobs[2].run_dir / "log.txt").read_text())
    monkeypatch.delenv("PYTHONPATH")
    again = sweep(configs, tmp_path / "runs", **options)
    assert [job.state for job in again] == ["done"] * 5 and read_run(jobs[2].run_dir).attempt == 2
    whole = run(configs[2], out=tmp_path / "whole", data_dir=data_dir)
    assert same(numbers(whole.path), numbers(jobs[2].run_dir))


def test_a_process_that_cannot_start_is_not_started_for_ever(tmp_path, data_dir, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\nif 'thesis_surrogates.running.shared_process' in ' '.join(sys.orig_argv):\n    os._exit(4)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    configs = [resolve({**TINY, "seed": seed}) for seed in range(2)]
    jobs = sweep(configs, tmp_path, data_dir=data_dir, workers=1, period=0.05, per_process=2)
    assert [job.state for job in jobs] == ["killed"] * 2 and "exit code 4" in jobs[1].message


def test_one_that_fails_does_not_stop_the_others(tmp_path, data_dir):
    wild = {**TINY, "train": {**TINY["train"], "optimizer": {"learning_rate": 1e30}, "gradient_clip": None}}
    configs = [resolve(TINY), resolve({**wild, "name": "wild"}), resolve({**TINY, "seed": 1})]
    jobs = sweep(configs, tmp_path, data_dir=data_dir, workers=1, period=0.05, per_process=3)
    assert [job.state for job in jobs] == ["done", "failed", "done"]
    assert (
        jobs[1].message.startswith("TrainingDiverged")
        and "TrainingDiverged" in (jobs[1].run_dir / "log.txt").read_text()
    )
    assert len({json.loads((job.run_dir / "run.json").read_text())["pid"] for job in jobs}) == 1


def test_the_command_line_shares_processes_makes_notebooks_and_figures_on_demand(
    tmp_path, data_dir, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump({"defaults": TINY, "grid": {"seed": [0, 1]}}))
    words = ["sweep", str(suite), "--data-dir", str(data_dir)]
    for wrong in (["--figures"], ["--per-process", "0"]):
        with pytest.raises(SystemExit) as refused:
            cli.main([*words, *wrong])
        assert refused.value.code == 2
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--per-process", "2", "--workers", "1"])
    capsys.readouterr()
    assert ended.value.code == 0
    places = [run_directory(config, "outputs/runs") for config in load_suite(suite)]
    facts = [read_run(place) for place in places]
    assert all(row["cost_us"] > 0 for one in facts for row in one.evaluated), "costs are measured at the end"
    assert not any((place / name).exists() for place in places for name in ("figures", "notebook.ipynb"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["notebook", str(places[0]), "--figures", "--data-dir", str(data_dir)])
    assert ended.value.code in (0, None) and "notebook.ipynb" in capsys.readouterr().out
    assert list((places[0] / "figures").glob("*.png")) and (places[0] / "notebook.ipynb").is_file()
    assert read_run(places[0]).events == facts[0].events and "made from" in read_run(places[0]).provenance["notebook"]


def test_a_notebook_is_made_of_runs_that_are_done_and_found(tmp_path, data_dir, smoke_runs):
    config = resolve({**TINY, "seed": 5})
    prepare_run(run_directory(config, tmp_path), as_mapping(config))
    with pytest.raises(ConfigError, match="is queued"):
        make_notebook(run_directory(config, tmp_path))
    (tmp_path / "elsewhere").symlink_to(smoke_runs("tracks").path)
    moved = tmp_path / "tracks" / "moved"
    moved.mkdir(parents=True)
    for name in ("config.yaml", "run.json"):
        (moved / name).write_bytes((smoke_runs("tracks").path / name).read_bytes())
    with pytest.raises(ConfigError, match="move it to"):
        make_notebook(moved)
