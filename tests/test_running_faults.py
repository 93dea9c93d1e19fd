"""Wrong words, wrong places and wrong files at the command line: one clear line, nothing begun, nothing in silence."""

from __future__ import annotations

import inspect
import math
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import yaml

from thesis_surrogates import cli
from thesis_surrogates.core import recorder
from thesis_surrogates.core.config import config_hash
from thesis_surrogates.core.errors import ConfigError, DataError, FactsError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.publishing import read_published
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.running import doctor
from thesis_surrogates.running.datasets import dataset_path, ensure_dataset, read_dataset
from thesis_surrogates.running.execution import run, run_directory
from thesis_surrogates.running.jobs import Request
from thesis_surrogates.running.registry import (
    SYSTEMS,
    get_system,
    list_suites,
    load_run,
    load_suite,
    read_seeds,
    read_settings,
    resolve,
    useless_keys_of,
)
from thesis_surrogates.running.reports import compare_runs, make_reports, system_of
from thesis_surrogates.running.results import published_folder, read_system
from thesis_surrogates.running.side_by_side import evaluate_runs
from thesis_surrogates.running.sweeps import Job, record_end, sweep
from thesis_surrogates.running.templates import execute_notebook

TINY = {
    "system": "tracks",
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"n_tracks": 500},
    "train": {"epochs": 1},
}


def ask(capsys, *words):
    """Exit code, output and errors of the command line in this process."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    answer = capsys.readouterr()
    return done.value.code or 0, answer.out, answer.err


def refused(capsys, *words):
    """The one line with which the command line refuses."""
    code, out, err = ask(capsys, *words)
    assert code == 2 and out == "" and err.startswith("error: ") and len(err.splitlines()) == 1, (words, code, out, err)
    return err


def recorded(folder, name, seed=0, rows=(), **config):
    """A run directory with a result, made without a training."""
    values = {
        "system": "tracks",
        "name": name,
        "seed": seed,
        "model": {"name": "mlp"},
        "data": {},
        "train": {},
        **config,
    }
    path = folder / f"{name}-{config_hash(values)}"
    with open_run(path, values, provenance={"data_fingerprint": "f" * 16}) as record:
        record.event("evaluated", {"headline": "position_mean_mm", "rows": list(rows)})
    return path


def row(kind, contender, error, cost):
    return {"kind": kind, "contender": contender, "parameters": 0, "cost_us": cost, "position_mean_mm": error}


BASELINES = [row("nothing", "straight line", 300.0, 0.1)] + [
    row("baseline", f"RK4 {steps} steps", 1.0 / steps**4, 0.1 * steps) for steps in range(2, 60)
]


# ---- options that have no effect


@pytest.mark.parametrize("command", ["publish", "compare", "report", "views"])
def test_the_folder_of_runs_is_refused_where_the_target_is_a_folder_itself(tmp_path, capsys, command):
    path = recorded(tmp_path, "a", rows=[*BASELINES, row("surrogate", "a", 0.1, 0.2)])
    message = refused(capsys, command, path, "--out", tmp_path / "elsewhere")
    assert "--out" in message and "is no suite" in message and not (tmp_path / "elsewhere").exists()
    assert ("--published" in message) == (command == "publish")


@pytest.mark.parametrize(
    "words, message",
    [
        (("data", "tracks", "--out", "x.h5", "--data-dir", "d"), "--out names the file already"),
        (("data", "tracks", "--set", "data.path=x.h5"), "nothing to make"),
        (("data", "tracks", "--seed", "1", "--set", "data.seed=2"), "give one of the two"),
        (("sweep", "tracks/smoke", "--seeds", "1", "--set", "seed=2"), "give one of the two"),
        (("sweep", "tracks/smoke", "--seeds", "1,1"), "given twice"),
        (("evaluate", "nowhere", "--on", "x.h5", "--data-dir", "d"), "--on names the file already"),
        (("run", "tracks/smoke:mlp", "--budget", "-1"), "the budget is -1 seconds"),
        (("run", "tracks/smoke:mlp", "--budget", "nan", "--here"), "the budget is nan seconds"),
        (("run", "tracks/smoke:mlp", "--set", "train.epochs=[1"), "is a bracket missing?"),
        (("run", "tracks/smoke:mlp", "--set", "train..epochs=1"), "key=value"),
        (("status", "."), "no runs"),
        (("report", "tracks/dmeo"), "no such folder and no such suite; did you mean 'tracks/demo'"),
        (("flavor", "weigh"), "brings no commands of its own"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("run", "tracks/smoke:mlp", "--out", "file"),
        ("run", "tracks/smoke:mlp", "--out", "file", "--here"),
        ("jobs", "tracks/smoke", "--scheduler", "slurm", "--out", "file"),
        ("site", "--out", "file"),
        ("evaluate", "file"),
        ("export", "file"),
        ("publish", "RUN", "--published", "file"),
        ("report", "RUN", "--reports", "file"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, monkeypatch, capsys, data_dir, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    path = recorded(tmp_path, "a")
    words = [path if word == "RUN" else word for word in words]
    words += ["--data-dir", data_dir] if words[0] == "run" else []
    assert "file" in refused(capsys, *words) and (tmp_path / "file").read_text() == "no folder"


def test_every_option_of_a_command_is_used_by_it():
    """A parameter that its function never reads is an option without effect."""
    for info in cli.app.registered_commands:
        source = inspect.getsource(info.callback).partition('"""')[2]
        for name in inspect.signature(info.callback).parameters:
            assert re.search(rf"\b{name}\b", source), (info.callback.__name__, name)


def test_a_system_without_commands_has_a_help(capsys):
    code, out, err = ask(capsys, "flavor", "--help")
    assert code == 0 and "brings no commands of its own" in out and "surrogates --help" in out and not err


def test_the_list_of_systems_is_quick_and_that_of_one_is_complete(capsys):
    code = (
        "import sys\nfrom thesis_surrogates import cli\n"
        "try: cli.main(['list'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'numpy', 'numba') if m in sys.modules])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert lines[-1] == "[]" and set(SYSTEMS) <= set(lines) and any("tracks/demo" in line for line in lines)
    assert "kick" in ask(capsys, "list", "tracks")[1]


def test_a_job_of_no_or_endless_length_is_refused():
    for hours in (math.nan, math.inf, 0.0):
        with pytest.raises(ConfigError, match="hours is"):
            Request(hours=hours)


# ---- one configuration, one directory


def test_a_run_without_a_name_is_called_like_its_model_in_every_way(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(TINY))
    assert (
        load_run(path).name == load_suite(path)[0].name == load_run(f"{path}:mlp").name == resolve(TINY).name == "mlp"
    )
    assert load_run(path, {"model": {"name": "residual"}}).name == "residual"
    path.write_text(yaml.safe_dump({**TINY, "name": "mine"}))
    assert load_run(path).name == "mine"
    path.write_text(yaml.safe_dump({**TINY, "train": {"epohcs": 1}}))
    with pytest.raises(ConfigError, match="run 'mlp': train.epohcs"):
        load_run(path)


def test_the_directory_of_a_configuration_is_found_under_another_name(tmp_path, data_dir):
    old = run({**TINY, "name": "file"}, out=tmp_path, data_dir=data_dir)
    again = run(TINY, out=tmp_path, data_dir=data_dir)
    assert again.path == old.path and again.attempt == 1 and len(list((tmp_path / "tracks").iterdir())) == 1
    other = resolve({**TINY, "seed": 1})
    assert run_directory(other, tmp_path).name == f"mlp-{config_hash(other)}"


def test_one_configuration_is_one_job_of_a_sweep(tmp_path, data_dir):
    configs = [resolve({**TINY, "name": name}) for name in ("a", "b", "a")]
    jobs = sweep(configs, tmp_path, data_dir=data_dir, period=0.1)
    assert [(job.config.name, job.state) for job in jobs] == [("a", "done")]
    rows = evaluate_runs([jobs[0].run_dir, jobs[0].run_dir], data_dir)
    assert sum(one["kind"] == "surrogate" for one in rows) == 1


# ---- files of one's own


@pytest.fixture
def wrong_files(tmp_path):
    """No file, no HDF5, and HDF5 of something else."""
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((10, 3))
    (tmp_path / "folder.h5").mkdir()
    return [tmp_path / name for name in ("none.h5", "text.h5", "other.h5", "folder.h5")]


def test_a_wrong_file_leaves_no_run_behind(tmp_path, wrong_files, capsys):
    for file in wrong_files:
        config = {**TINY, "data": {"path": str(file)}}
        for start in (run, lambda values, **places: sweep([resolve(values)], **places)):
            with pytest.raises(DataError) as told:
                start(config, out=tmp_path / "runs", data_dir=tmp_path / "data")
            assert file.name in str(told.value) and len(str(told.value).splitlines()) == 1
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        for words in ((), ("--here",)):
            assert file.name in refused(capsys, "run", tmp_path / "run.yaml", "--out", tmp_path / "runs", *words)
    assert not (tmp_path / "runs").exists()


def test_files_of_other_systems_and_wrong_files_are_named_by_every_system(tmp_path, wrong_files, system_name, data_dir):
    system = get_system(system_name)
    others = [name for name in SYSTEMS if name != system_name]
    suite = load_suite(f"{others[0]}/smoke")[0]
    foreign = ensure_dataset(get_system(others[0]), suite.data, data_dir)
    for file in [*wrong_files, foreign]:
        with pytest.raises(DataError) as told:
            read_dataset(system, system.data_config(path=str(file)), file)
        assert file.name in str(told.value)


def test_a_file_that_goes_bad_later_is_a_recorded_failure(tmp_path, data_dir):
    source = ensure_dataset(get_system("tracks"), resolve(TINY).data, data_dir)
    mine = tmp_path / "mine.h5"
    shutil.copy(source, mine)
    config = resolve({**TINY, "data": {"path": str(mine)}})
    assert run(config, out=tmp_path, data_dir=data_dir, budget_seconds=0.0).status == "paused"
    mine.write_text("gone")
    with pytest.raises(DataError, match="mine.h5"):
        run(config, out=tmp_path, data_dir=data_dir)
    assert read_run(run_directory(config, tmp_path)).error["type"] == "DataError"
    assert dataset_path("tracks", config.data, data_dir) == mine


def test_a_paused_run_says_what_to_do(tmp_path, data_dir):
    config = resolve(TINY)
    record = run(config, out=tmp_path, data_dir=data_dir, budget_seconds=0.0)
    job = Job(config, record.path, state="running")
    record_end(job)
    assert job.state == "paused" and "the same command goes on" in job.message and job.seconds is not None


# ---- keys of no use


def report_faults(target, configs):
    """What is reported, but for the gate of older runs: a name of it would change the identity of published ones."""
    return [line for line in useless_keys_of(target, configs) if "no gate is named" not in line]


def test_our_suites_report_nothing_and_a_typed_key_is_reported():
    for name in list_suites():
        assert report_faults(name, load_suite(name)) == [], name
        for single in load_suite(name)[-2:]:
            assert report_faults(f"{name}:{single.name}", [single]) == [], single.name
    typed = load_run("tracks/core:mlp_tiny", {"train": {"lambda_pde": 3.0}})
    (line,) = useless_keys_of("tracks/core:mlp_tiny", [typed])
    assert line == "run 'mlp_tiny': the model mlp makes no use of train.lambda_pde = 3.0; leave it out"


def test_a_key_that_no_run_of_a_suite_uses_is_reported_once(tmp_path):
    suite = {"defaults": {**TINY, "train": {"lambda_pde": 2.0}}, "runs": {"a": {}, "b": {"seed": 1}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite))
    (line,) = useless_keys_of(tmp_path / "s.yaml", load_suite(tmp_path / "s.yaml"))
    assert line.startswith("run 'a' and 1 more: the model mlp makes no use of train.lambda_pde = 2.0")
    suite["runs"]["p"] = {"model": {"name": "pinn"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite))
    assert useless_keys_of(tmp_path / "s.yaml", load_suite(tmp_path / "s.yaml")) == []
    assert useless_keys_of(f"{tmp_path / 's.yaml'}:a", [load_run(f"{tmp_path / 's.yaml'}:a")]) == []


# ---- damaged and foreign run directories


def test_errors_in_yaml_name_the_file(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("system: tracks\nmodel: {name: mlp\ntrain: ]")
    message = refused(capsys, "run", tmp_path / "bad.yaml")
    assert "unicode string" not in message and message.count("bad.yaml") > 1 and "line 3" in message
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("{{{{")
    message = refused(capsys, "evaluate", tmp_path / "run")
    assert "unicode string" not in message and "config.yaml" in message


@pytest.mark.parametrize("text", ['{"format": 9}', "[1]", '{"a":', ""])
def test_one_unreadable_run_does_not_hide_the_others(tmp_path, capsys, text):
    good = recorded(tmp_path, "good", rows=[*BASELINES, row("surrogate", "good", 0.1, 0.2)])
    bad = recorded(tmp_path, "bad", seed=1)
    (bad / "run.json").write_text(text)
    for command in ("compare", "status"):
        code, out, err = ask(capsys, command, tmp_path)
        assert code == 0 and good.name.split("-")[0] in out and "bad" in out and "unreadable" in out and not err
    assert "run.json" in refused(capsys, "export", bad)
    (compared,) = compare_runs([tmp_path])
    assert any("run.json" in line for line in compared.problems())


def test_a_report_lists_what_it_cannot_read(tmp_path):
    recorded(tmp_path / "runs", "good", rows=[*BASELINES, row("surrogate", "good", 0.1, 0.2)])
    bad = recorded(tmp_path / "runs", "bad", seed=1)
    (bad / "run.json").write_text('{"format": 9}')
    (folder,) = make_reports(tmp_path / "runs", reports=tmp_path / "reports")
    assert "unreadable" in (folder / "table.csv").read_text()


def test_runs_of_an_unknown_system_are_not_published(tmp_path, capsys):
    path = recorded(tmp_path, "a", system="rockets")
    for command in ("publish", "compare", "report"):
        assert "'rockets'" in refused(capsys, command, path)
    with pytest.raises(FactsError, match="rockets"):
        system_of([path])


def test_templates_without_runs_are_refused(tmp_path):
    for evaluation in (lambda: evaluate_runs([]), lambda: system_of([])):
        with pytest.raises(ConfigError, match="run_dirs"):
            evaluation()
    for template in ("evaluate", "report"):
        place = list_suites()["tracks/demo"].parent.parent.parent / f"{template}.ipynb"
        with pytest.raises(ConfigError, match="run_dirs"):
            execute_notebook(place, tmp_path / f"{template}.ipynb", {})


@pytest.mark.parametrize("place", [".", "tracks/frontier", "nowhere"])
def test_a_wrong_folder_of_published_runs_is_named(place):
    folder = published_folder() / place
    with pytest.raises(FactsError) as told:
        read_published(folder)
    near = {".": "tracks", "tracks/frontier": "tracks", "nowhere": "outputs/published"}[place]
    assert near in str(told.value).partition("give")[2]


def test_a_wrong_folder_of_published_systems_is_named(tmp_path):
    for folder in (published_folder() / "tracks", published_folder() / "tracks/frontier", tmp_path / "none"):
        with pytest.raises(FactsError, match="no folder of published facts"):
            read_system("orbits", folder)
    assert read_system("orbits", tmp_path) == read_system("orbits", None) == ([], [])


# ---- a comparison that a person reads


def test_a_comparison_is_short_and_says_how_to_see_the_rest(tmp_path, capsys):
    paths = [
        recorded(tmp_path / place, name, seed=seed, rows=[*BASELINES, row("surrogate", name, error, 0.5)], data=data)
        for place, name, seed, error, data in (
            ("A", "net", 0, 0.02, {}),
            ("A", "net", 1, 0.03, {}),
            ("B", "net", 0, 0.01, {"n": 2}),
        )
    ]
    code, out, err = ask(capsys, "compare", tmp_path / "A", tmp_path / "B", paths[0])
    assert code == 0 and not err and len(out.splitlines()) < 30 and "--all" in out and "left out: 55 of" in out
    for kept in ("straight line", "RK4 2 steps", "RK4 4 steps", "RK4 59 steps"):  # cheapest, as accurate, most accurate
        assert kept in out
    (compared,) = compare_runs([tmp_path / "A", tmp_path / "B", paths[0]])
    table = compared.table.set_index("kind")
    assert table.loc["surrogate"].seeds.tolist() == [1, 2] and table.loc["baseline"].seeds.isna().all()
    assert list(compared.settings.columns) == ["key", *(path.name for path in (paths[0], paths[1], paths[2]))]
    full = ask(capsys, "compare", tmp_path / "A", tmp_path / "B", "--all")[1]
    assert "RK4 30 steps" in full and "left out" not in full


def test_many_runs_are_compared_by_the_values_of_each_key(tmp_path):
    for seed in range(8):
        recorded(tmp_path, "net", seed=seed, rows=[*BASELINES, row("surrogate", "net", 0.1, 0.5)])
    (compared,) = compare_runs([tmp_path])
    assert compared.settings.to_dict("records") == [{"key": "seed", "values": "0, 1, 2, 3, 4, 5, 6, 7"}]
    assert compared.short_table().seeds.tolist()[-1] == "8"


# ---- one list


def test_the_doctor_looks_for_what_is_recorded():
    assert doctor.PACKAGES is recorder.PACKAGES
    names = [check.name for check in doctor._packages()]
    assert names == list(recorder.PACKAGES) and set(recorder.package_versions()) <= set(names)


def test_words_of_the_command_line():
    assert read_seeds("0, 3") == [0, 3] and read_settings(["train.epochs=3"]) == {"train": {"epochs": 3}}
    for text in ("1,1", "²", "-1", "x"):
        with pytest.raises(ConfigError, match="--seeds"):
            read_seeds(text)
