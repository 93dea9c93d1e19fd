"""The papermill templates, executed as users type them: every promised figure is there, and no parameter is lost."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from thesis_surrogates.core.config import config_hash
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.running.registry import experiments_folder, resolve

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = experiments_folder()
TINY = {
    "system": "tracks",
    "model": {"name": "mlp", "size": "tiny"},
    "data": {"n_tracks": 400},
    "train": {"epochs": 2, "batch_size": 128},
}


def papermill(template, folder, *words, **values):
    """Type papermill in a folder of one's own; the answer and the executed notebook."""
    (folder / "c.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    command = ["papermill", TEMPLATES / f"{template}.ipynb", f"{template}.ipynb", "-f", "c.yaml", "-k", "python3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command), "--no-progress-bar", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    output = folder / f"{template}.ipynb"
    return done, json.loads(output.read_text())["cells"] if output.is_file() else []


def run_directories(folder):
    return [path.parent for path in sorted(folder.glob("outputs/runs/*/*/config.yaml"))]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A folder in which each template was executed once, and the cells of the three notebooks."""
    folder = tmp_path_factory.mktemp("templates")
    cells = {}
    for name, values in {"train": TINY, "evaluate": {}, "report": {}}.items():
        given = values if name == "train" else {**values, "run_dirs": [str(path) for path in run_directories(folder)]}
        done, cells[name] = papermill(name, folder, **given)
        assert done.returncode == 0, done.stderr
    return folder, cells


def kinds_shown(cell):
    return {kind for output in cell["outputs"] for kind in output.get("data", {})}


# What a cell calls, and what its output must hold then.
PROMISES = {
    "loss_curves(": {"image/png"},
    "Image(": {"image/png"},
    "DataFrame(": {"text/html"},
    "convergence": {"text/html"},
    "table.md": {"text/markdown"},
    "Markdown(": {"text/markdown"},
}


@pytest.mark.parametrize("template", sorted(path.stem for path in TEMPLATES.glob("*.ipynb")))
def test_every_promised_figure_and_table_is_in_the_executed_notebook(executed, template):
    broken, promising = [], 0
    for index, cell in enumerate(executed[1][template]):
        source = "".join(cell["source"])
        if (
            cell["cell_type"] != "code"
            or "import" in source
            or "parameters" in " ".join(cell["metadata"].get("tags", []))
        ):
            continue
        promised = set().union(*(kinds for words, kinds in PROMISES.items() if words in source))
        if source.startswith("if report.sweep:"):  # these runs are no sweep; test_sweep_figures has one
            assert not kinds_shown(cell)
            continue
        if "else Markdown(" in source:
            promised -= {"text/markdown"}
        promising += bool(promised)
        if promised - kinds_shown(cell):
            broken.append(
                f"cell {index} ({source.splitlines()[0][:60]}) shows no {sorted(promised - kinds_shown(cell))}"
            )
    assert promising and not broken, f"{template}: {broken}"


def test_a_run_typed_into_papermill_is_the_run_of_the_command_line(executed):
    folder, _ = executed
    (run_dir,) = run_directories(folder)
    config = resolve(TINY)
    assert run_dir.name == f"mlp-{config_hash(config)}" and read_run(run_dir).config["name"] == "mlp"
    again = subprocess.run(
        [sys.executable, "-m", "thesis_surrogates", "run", "c.yaml", "--here", "--out", "again"],
        cwd=_with_file(folder, TINY),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert again.returncode == 0, again.stderr
    assert [path.name.rpartition("-")[2] for path in folder.glob("again/tracks/*")] == [config_hash(config)]


def _with_file(folder, values):
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.parametrize(
    "template, values, words, messages",
    [
        ("train", {**TINY, "sede": 7}, (), ("sede", "did you mean 'seed'")),
        (
            "train",
            {"modle": {"name": "mlp"}, "data": TINY["data"], "train": TINY["train"]},
            (),
            ("modle", "did you mean 'model'"),
        ),
        ("train", TINY, ("-p", "epochs", "1"), ("epochs", "train")),
        ("train", {**TINY, "train": {"epohcs": 1}}, (), ("train.epohcs", "did you mean 'epochs'")),
        ("train", {**TINY, "budget_seconds": "soon"}, (), ("budget_seconds", "soon")),
        ("evaluate", {"run_dir": ["x"]}, (), ("run_dir", "did you mean 'run_dirs'")),
        ("report", {"colums": ["x"]}, (), ("colums", "did you mean 'columns'")),
    ],
)
def test_papermill_with_a_wrong_name_is_refused_before_anything_is_made(tmp_path, template, values, words, messages):
    done, _ = papermill(template, tmp_path, *words, **values)
    assert done.returncode != 0
    assert all(message in done.stderr for message in ("ConfigError", *messages)), done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"c.yaml", f"{template}.ipynb"}


def test_numbers_that_yaml_leaves_as_text_are_read_as_the_command_line_reads_them(tmp_path):
    """YAML 1.1 takes 1e-3 for a word, and so does papermill's file of parameters."""
    values = {
        **TINY,
        "train": {**TINY["train"], "epochs": 1, "optimizer": {"learning_rate": "1e-3"}},
        "budget_seconds": "1e2",
    }
    done, _ = papermill("train", tmp_path, **values)
    assert done.returncode == 0, done.stderr
    (run_dir,) = run_directories(tmp_path)
    del values["budget_seconds"]
    assert (
        run_dir.name.endswith(config_hash(resolve(values)))
        and read_run(run_dir).config["train"]["optimizer"]["learning_rate"] == 1e-3
    )


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_template_declares_what_its_parameters_cell_holds(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    (first,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    held = {target.id for line in ast.parse("".join(first["source"])).body for target in line.targets}
    after = "".join(cells[cells.index(first) + 1]["source"])
    (call,) = [
        node
        for node in ast.walk(ast.parse(after))
        if isinstance(node, ast.Call) and node.func.id == "refuse_undeclared"
    ]
    assert set(ast.literal_eval(call.args[1])) == held, "the cell after the parameters checks exactly these"


def test_papermill_is_loaded_without_a_grammar_that_nobody_needs():
    """Where JupyterLab is installed, jsonschema compiles one in every process that runs a notebook: a second each."""
    program = (
        "import sys; from thesis_surrogates.running.templates import load_papermill as load; "
        "print(load().__name__, 'lark' in sys.modules, 'rfc3987_syntax' in sys.modules, load() is load())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["papermill", "False", "False", "True"]
