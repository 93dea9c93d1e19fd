"""What CONTRIBUTING says of nbdev's commands, typed as it says, on a copy of a notebook and its module."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MODULE = Path("thesis_surrogates/core/progress.py")
SOURCE = re.search(r"File to edit: (\S+\.ipynb)", (ROOT / MODULE).read_text())[1]
NOTEBOOK = Path(os.path.normpath(MODULE.parent / SOURCE))


@pytest.fixture
def tree(tmp_path) -> Path:
    """A repository of one notebook and its module, exported and committed."""
    for name in ("settings.ini", "pyproject.toml", ".gitignore", ".gitattributes", NOTEBOOK, MODULE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version = re.search(r"^version = (.*)$", (ROOT / "settings.ini").read_text(), re.MULTILINE)[1]
    package = tmp_path / MODULE.parts[0] / "__init__.py"
    package.write_text(f'__version__ = "{version}"\n')  # the notebook that it comes from is not here
    typed(tmp_path, "nbdev_export")  # writes the index of modules
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    return tmp_path


def typed(tree: Path, command: str, *words: str) -> str:
    """A command typed in the folder, with the environment's programs first and a home of its own."""
    home = tree.parent / "home"
    home.mkdir(exist_ok=True)
    env = {**os.environ, "HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [command, *words], cwd=tree, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def changed(tree: Path) -> set[str]:
    done = subprocess.run(["git", "status", "--short"], cwd=tree, capture_output=True, text=True, check=True)
    return {line[3:] for line in done.stdout.splitlines()}


def test_commands_that_are_named_exist_and_the_others_have_a_make_target():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## If you know nbdev")[1].split("\n## ")[0]
    for name in set(re.findall(r"`(nbdev_\w+)`", section)):
        assert (BIN / name).is_file(), name
    as_it_is, instead = section.split("Quarto")[0], section.split("| Instead of")[1]
    for name in ("nbdev_export", "nbdev_test", "nbdev_clean", "nbdev_update", "nbdev_install_hooks"):
        assert f"| `{name}` |" in as_it_is
    for name in ("nbdev_docs", "nbdev_preview", "nbdev_proc_nbs"):
        assert f"| `{name}` |" in instead


def test_export_and_clean_change_nothing_that_is_committed(tree):
    typed(tree, "nbdev_export")
    typed(tree, "nbdev_clean")
    assert changed(tree) == set() and (tree / MODULE).read_bytes() == (ROOT / MODULE).read_bytes()


def test_clean_takes_one_notebook_and_keeps_tags(tree):
    path = tree / NOTEBOOK
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[0] |= {"execution_count": 3, "metadata": {"tags": ["parameters"], "collapsed": True}}
    path.write_text(json.dumps(notebook))
    typed(tree, "nbdev_clean", "--fname", str(NOTEBOOK))
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"] == {"tags": ["parameters"]} and code[0]["execution_count"] is None


def test_test_runs_one_notebook(tree):
    assert "Success" in typed(tree, "nbdev_test", "--path", str(NOTEBOOK))


def test_update_brings_an_edit_of_a_module_back_to_its_cell_and_no_further(tree):
    before = json.loads((tree / NOTEBOOK).read_text())["cells"]
    module = tree / MODULE
    module.write_text(module.read_text().replace("BarColumn(24)", "BarColumn(36)"))
    edited = module.read_text()
    typed(tree, "nbdev_update")
    after = json.loads((tree / NOTEBOOK).read_text())["cells"]
    differ = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(differ) == 1 and "BarColumn(36)" in "".join(differ[0]["source"])
    typed(tree, "nbdev_export")
    assert module.read_text() == edited


def test_hooks_leave_nothing_to_commit(tree):
    typed(tree, "nbdev_install_hooks")
    assert changed(tree) == set()
    kept = tree.parent / "home" / ".jupyter" / "jupyter_server_config.py"
    assert "clean_jupyter" in kept.read_text()
