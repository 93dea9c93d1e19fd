"""What systems bring to the command line, and how a target and the options beside it become checked runs."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from thesis_surrogates import _cli_results, cli
from thesis_surrogates.core.config import as_mapping
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import Run
from thesis_surrogates.core.surrogate import Surrogate
from thesis_surrogates.running import registry
from thesis_surrogates.running.commands import command_group
from thesis_surrogates.running.registry import SYSTEMS, get_system, load_run, load_suite

CALLS = []


def weigh(
    surrogates: list[Surrogate],  # Trained runs.
    reference: Run,  # What they are compared with.
    *,
    factors: list[float] = [1.0],  # noqa: B006
    rows: int = 2,
    names: bool = True,  # Whether names are printed.
    out: Path | None = None,  # Where to write.
) -> Iterator[str]:
    """Weigh surrogates.

    Not for the help.
    """
    CALLS.append((surrogates, reference, factors, rows, names, out))
    for surrogate in surrogates:
        example = next(iter(surrogate.deployable.inputs.values())).numpy()[:1]
        result = surrogate.predict(np.repeat(example, rows, 0))
        yield f"{surrogate.config.name if names else '-'}: {len(result)} rows beside {reference.status}"


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """A registered system that brings a command; its module is found by the path of imports."""
    (tmp_path / "toys_of_a_test.py").write_text("SYSTEM = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(SYSTEMS, "toys", "toys_of_a_test")
    import toys_of_a_test

    toys_of_a_test.SYSTEM = dataclasses.replace(get_system("tracks"), name="toys", commands={"weigh": weigh})
    CALLS.clear()
    yield
    del sys.modules["toys_of_a_test"]


def ask(capsys, *words):
    """Exit code, output and errors of the command line in this process."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    answer = capsys.readouterr()
    return done.value.code or 0, answer.out, answer.err


def test_a_command_of_a_system_gets_what_its_annotations_ask_for(toys, smoke_runs, capsys, tmp_path):
    path = smoke_runs("tracks").path
    options = ("--factors", "0.5", "--factors", "2", "--rows", 3, "--no-names", "--out", tmp_path / "x")
    code, out, err = ask(capsys, "toys", "weigh", path, path, path, *options)
    assert (code, err) == (0, "") and out == "-: 3 rows beside done\n" * 2
    surrogates, reference, factors, rows, names, where = CALLS[0]
    assert [type(one) for one in surrogates] == [Surrogate] * 2 and isinstance(reference, Run)
    assert (factors, rows, names, where) == ([0.5, 2.0], 3, False, tmp_path / "x")
    ask(capsys, "toys", "weigh", path, path)
    assert CALLS[1][2:] == ([1.0], 2, True, None)


def test_the_help_is_made_of_docstring_and_comments(toys, capsys):
    code, out, _ = ask(capsys, "toys", "weigh", "--help")
    assert code == 0 and "Weigh surrogates." in out and "Not for the help" not in out
    for words in ("Trained runs.", "What they are compared with.", "Whether names are printed.", "Where to write."):
        assert words in out
    assert "weigh" in ask(capsys, "toys", "--help")[1] and "weigh" in ask(capsys, "list", "toys")[1]


def test_a_wrong_word_for_a_command_of_a_system_is_answered(toys, smoke_runs, capsys, tmp_path):
    path = smoke_runs("tracks").path
    code, _, err = ask(capsys, "toys", "weigh", tmp_path, path)
    assert code == 2 and err.startswith("error: ") and "not a run directory" in err and not CALLS
    assert ask(capsys, "toys", "weigh", path, path, "--rows", "many")[0] == 2 and not CALLS
    assert "No such command" in ask(capsys, "tosy", "weigh")[2]
    assert "brings no commands of its own" in ask(capsys, "flavor", "weigh")[2]


def test_commands_of_the_systems_are_plain_annotated_functions(system_name):
    system = get_system(system_name)
    for name, function in system.commands.items():
        assert function.__doc__ and not function.__module__.startswith("thesis_surrogates.running"), name
    if system.commands:
        assert set(command_group(system).commands) == set(system.commands)


def test_the_command_line_is_light_and_names_no_system():
    """Neither the help nor a wrong command loads PyTorch: systems are asked only where they are named."""
    code = (
        "import sys\nfrom thesis_surrogates import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    )
    for words in (["--help"], ["data", "--help"], ["trakcs", "merge"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", (words, done.stdout, done.stderr)
    written = [Path(module.__file__).read_text() for module in (cli, _cli_results)]
    imported = {
        node.module for text in written for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)
    }
    assert not [name for name in imported if name and name.split(".")[1:2] and name.split(".")[1] in SYSTEMS]


# ---- targets


def counted(monkeypatch):
    """How often a run is checked from here on."""
    checks, check_run = [], registry.check_run

    def check(*arguments):
        checks.append(arguments[0])
        return check_run(*arguments)

    monkeypatch.setattr(registry, "check_run", check)
    return checks


def test_a_suite_is_merged_before_its_one_check(monkeypatch):
    plain = load_suite("tracks/smoke")
    checks = counted(monkeypatch)
    runs = load_suite("tracks/smoke", {"train": {"epochs": 7}}, [4, 5])
    assert len(checks) == len(runs) == 2 * len(plain)
    for run, before in zip(runs, plain * 2, strict=True):
        wanted = as_mapping(before) | {"seed": run.seed}
        wanted["train"] = {**wanted["train"], "epochs": 7}
        assert as_mapping(run) == wanted
    assert [run.seed for run in runs] == [4] * len(plain) + [5] * len(plain)


def test_a_default_follows_the_key_that_was_set():
    """The epochs of an orbit's training follow from its steps; merged after the check they contradicted them."""
    run = load_suite("orbits/smoke", {"train": {"steps_strategy": [40, 40]}})[0]
    assert run.train.epochs == 2 * load_suite("orbits/smoke")[0].train.epochs


def test_a_model_that_is_only_named_can_be_given_keys(tmp_path):
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"system": "tracks", "model": "mlp"}))
    run = load_run(tmp_path / "one.yaml", {"model": {"hidden": [4]}})
    assert (run.name, run.model.name, run.model.hidden) == ("mlp", "mlp", (4,))
    assert load_run(tmp_path / "one.yaml", {"model": "residual"}).model.name == "residual"
    assert load_suite(tmp_path / "one.yaml") == [load_run(tmp_path / "one.yaml")]


def test_a_mistake_in_many_runs_is_told_once():
    with pytest.raises(ConfigError) as error:
        load_suite("tracks/demo", {"train": {"epohcs": 1}}, [0, 1])
    number = len(load_suite("tracks/demo"))
    assert len(str(error.value).splitlines()) == 1 and f"and {number - 1} more: train.epohcs" in str(error.value)


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path):
    path = tmp_path / "a:b.yaml"
    path.write_text(yaml.safe_dump({"system": "tracks", "model": {"name": "mlp"}}))
    assert load_run(path).model.name == "mlp" and load_run(f"{path}:mlp") == load_run(path)


@pytest.mark.parametrize(
    "target, words",
    [
        ("tracks/dmeo", "no such file and no such suite; did you mean 'tracks/demo'"),
        ("tracks/demo:mpl", "tracks/demo has no run 'mpl'; did you mean 'mlp'"),
        ("tracks/demo", "execute all with: surrogates sweep tracks/demo"),
        ("tracks/demo:", "surrogates run tracks/demo:"),
        ("trakcs/demo:mlp", "did you mean 'tracks/demo'"),
    ],
)
def test_a_target_that_is_no_run_is_answered_with_what_to_type(target, words):
    with pytest.raises(ConfigError) as error:
        load_run(target)
    assert words in str(error.value)


def test_settings_reach_the_datasets_of_a_suite(tmp_path, capsys):
    code, out, err = ask(capsys, "data", "tracks/smoke", "--set", "data.n_tracks=60", "--data-dir", tmp_path / "data")
    assert (code, err) == (0, "") and len(out.splitlines()) == len(list((tmp_path / "data/tracks").glob("*.h5")))
    assert {run.data.n_tracks for run in load_suite("tracks/smoke", {"data": {"n_tracks": 60}})} == {60}


def test_no_test_lists_the_systems_by_hand():
    """A fifth system must be found by the tests that go through all of them."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                words = {item.value for item in node.elts if isinstance(item, ast.Constant)}
                assert not set(SYSTEMS) <= words, f"{path.name}:{node.lineno}: take the systems from the registry"
