"""What somebody sees who imports the package: its names, its help, its speed, and what objects say of themselves."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import thesis_surrogates
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.running.execution import run
from thesis_surrogates.running.registry import get_system, load_suite

NAMES = ["System", "load_runs", "load_surrogate", "run"]
TINY = {
    "system": "tracks",
    "model": {"name": "residual", "hidden": [16]},
    "data": {"n_tracks": 1000},
    "train": {"epochs": 2},
}


def fresh(code):
    """What another interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_dir_shows_the_public_names_and_nothing_else():
    assert fresh("import thesis_surrogates as ts; print(sorted(dir(ts)))") == str(sorted(NAMES))
    assert sorted(thesis_surrogates.__all__) == sorted(NAMES)
    assert all(getattr(thesis_surrogates, name).__doc__ for name in NAMES)


@pytest.mark.parametrize("use_jedi", [True, False])
def test_completion_shows_the_public_names_and_nothing_else(use_jedi):
    from IPython.core.completer import IPCompleter, provisionalcompleter

    completer = IPCompleter(namespace={"ts": thesis_surrogates}, use_jedi=use_jedi)
    with provisionalcompleter():
        found = {entry.text.lstrip(".").removeprefix("ts.") for entry in completer.completions("ts.", 3)}
    assert found == set(NAMES)


def test_help_of_the_package_names_what_it_offers():
    assert thesis_surrogates.__doc__ and all(name in thesis_surrogates.__doc__ for name in NAMES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", thesis_surrogates.__version__)


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(thesis_surrogates.__file__).parent / "py.typed").is_file()


def test_importing_the_package_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; b = time.perf_counter(); import thesis_surrogates; s = time.perf_counter() - b; "
        "print(s, [m for m in ('torch', 'numpy', 'pandas', 'pydantic') if m in sys.modules])"
    )
    answers = [fresh(code).split(" ", 1) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in answers) < 0.1 and {loaded for _, loaded in answers} == {"[]"}


def test_a_run_is_a_small_table(smoke_runs, system_name):
    record = smoke_runs(system_name)
    text, page, headline = repr(record), record._repr_html_(), get_system(system_name).terms.headline
    surrogate = next(row for row in record.evaluated if row["kind"] == "surrogate")
    nothing = min((row for row in record.evaluated if row["kind"] == "nothing"), key=lambda row: row[headline])
    for shown in (text, page):
        assert all(
            word in shown for word in ("done", headline, str(record.path), surrogate["contender"], nothing["contender"])
        ) and re.search("baseline|reference", shown)
    assert f"{surrogate[headline]:.4g}" in text and f"{record.seconds:.3g} s" in text
    assert text.count("\n") < 12 and page.count("<tr") <= 12 and len(page) < 4000
    assert record.last_event("evaluated")["headline"] == headline


def test_a_run_without_a_recorded_headline_shows_its_first_metric(smoke_runs):
    import dataclasses

    record = smoke_runs("flavor")
    events = [{key: value for key, value in event.items() if key != "headline"} for event in record.events]
    older = dataclasses.replace(record, events=events)
    first = next(
        key
        for key in record.evaluated[0]
        if key not in ("contender", "kind", "parameters", "note", "cost_us", "implementation")
    )
    assert first in repr(older) and first in older._repr_html_()


def test_a_run_that_has_no_result_says_why(tmp_path):
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"system": "tracks", "name": "<b>late</b>", "model": {"name": "mlp"}})
    )
    record = read_run(tmp_path)
    assert "queued" in repr(record) and "queued" in record._repr_html_() and "<b>late" not in record._repr_html_()
    (tmp_path / "run.json").write_text(
        '{"status": "failed", "error": {"type": "DataError", "message": "x < 3\\nmore", "epoch": 4}}'
    )
    broken = read_run(tmp_path)
    assert (
        "DataError: x < 3" in repr(broken)
        and "DataError: x &lt; 3" in broken._repr_html_()
        and "more" not in repr(broken)
    )


def test_a_file_or_a_run_of_a_suite_is_executed_by_name(tmp_path, data_dir):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(TINY))
    first = run(path, out=tmp_path / "runs", data_dir=data_dir)
    assert first.status == "done" and first.config["name"] == first.config["model"]["name"]
    assert run(str(path), out=tmp_path / "runs", data_dir=data_dir).run_id == first.run_id
    second = run("tracks/smoke:residual", out=tmp_path / "runs", data_dir=data_dir)
    wanted = next(config for config in load_suite("tracks/smoke") if config.name == "residual")
    assert second.config["model"]["name"] == "residual" and second.config["train"]["epochs"] == wanted.train.epochs


@pytest.mark.parametrize(
    "target, words",
    [
        ("tracks/demo", ["surrogates sweep tracks/demo", "surrogates run tracks/demo:mlp", "kick"]),
        ("tracks/dmeo", ["no such file", "did you mean 'tracks/demo'"]),
        ("tracks/demo:mpl", ["did you mean 'mlp'"]),
        ("tracks/demo:", ["surrogates sweep tracks/demo"]),
        (3, ["expected a mapping"]),
    ],
)
def test_a_name_that_is_no_run_is_answered_with_the_remedy(tmp_path, target, words):
    with pytest.raises(ConfigError) as caught:
        run(target, out=tmp_path / "runs", data_dir=tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_suite_file_is_answered_with_the_remedy(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"defaults": TINY, "runs": {"a": {}, "b": {"seed": 1}}}))
    with pytest.raises(ConfigError, match=r"surrogates sweep .*suite\.yaml.*surrogates run .*suite\.yaml:a"):
        run(path, out=tmp_path / "runs", data_dir=tmp_path)
    assert run(f"{path}:a", out=tmp_path / "runs", data_dir=tmp_path / "data").config["name"] == "a"
