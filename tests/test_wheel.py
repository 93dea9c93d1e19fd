"""The package as a stranger gets it: a wheel, installed into an environment of its own, used from an empty folder.

The heavy dependencies (torch, numba, ...) are not downloaded again. A `.pth` file lends the new environment the
folder of installed packages of the one that runs the tests. That would also lend it this checkout, were it not for
two facts that the test makes sure of: a lent folder is a plain path entry, so the `.pth` files in it (and with them
the editable install) are not read; and the wheel's own copy stands before it on the path. Metadata are checked too:
the wheel must name every dependency it imports.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "thesis_surrogates"
pytestmark = pytest.mark.wheel


def clean_environment(folder: Path) -> dict[str, str]:
    """Environment variables of somebody who has never heard of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER", "VIRTUAL_ENV", "COV_"))}
    return {**kept, "HOME": str(folder), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree, so that nothing built before can slip in."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "nbs" / "experiments", source / "nbs" / "experiments")
    shutil.copytree(ROOT / "site", source / "site", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def stranger(wheel, tmp_path_factory) -> tuple[Path, Path, dict[str, str]]:
    """Python of an environment that holds the wheel, an empty folder to work in, and the environment variables."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "env", with_pip=False)
    python = home / "env" / "bin" / "python"
    env = clean_environment(home)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, env=env, check=True).stdout.strip())
    (own / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = home / "empty"
    empty.mkdir()
    return python, empty, env


def run(stranger, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A command of the environment's bin folder, run from the empty folder."""
    python, empty, env = stranger
    program = [str(python.with_name(command[0])), *command[1:]]
    return subprocess.run(program, cwd=empty, env=env, capture_output=True, text=True, timeout=timeout)


def test_wheel_holds_every_module_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert modules <= names, f"missing from the wheel: {sorted(modules - names)}"
    templates = {n for n in names if ".data/data/share/thesis_surrogates/experiments/" in n}
    wanted = {p.name for p in (ROOT / "nbs" / "experiments").rglob("*") if p.suffix in {".ipynb", ".yaml"}}
    assert {n.rsplit("/", 1)[1] for n in templates} == wanted
    others = {n for n in names - modules - templates if ".dist-info/" not in n}
    assert not others, f"these have no business in the wheel: {sorted(others)}"
    assert any(n.endswith("LICENSE") for n in names)


ALIAS = {
    "yaml": "pyyaml",
    "pil": "pillow",
    "cycler": "matplotlib",
    "pypandoc": "pypandoc-binary",
    "sklearn": "scikit-learn",
}  # cycler is matplotlib's in all but name
NEEDED_BY_OTHERS = {"onnxscript": "torch.onnx.export asks for it and does not declare it"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each distribution that a module imports, and whether it does so at its top (the standard library and itself
    apart).
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"thesis_surrogates"}:
            plain = name.lower().replace("_", "-")
            yield ALIAS.get(plain, plain), node in tree.body


def requirements(wheel: Path) -> tuple[set[str], set[str]]:
    """What the wheel always needs, and what one of its extras needs."""
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", metadata, re.MULTILINE)
    always = {name.lower().replace("_", "-") for name, rest in lines if "extra ==" not in rest}
    return always, {name.lower().replace("_", "-") for name, rest in lines if "extra ==" in rest}


def test_wheel_names_every_dependency_it_imports(wheel):
    """What a module imports at its top is always required; what a function imports may stand in an extra."""
    always, extras = requirements(wheel)
    missing = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name, top in imports(path)
        if name not in (always if top else always | extras)
    }
    assert not missing, f"pyproject.toml does not name {sorted(missing)}"


def test_every_dependency_of_the_wheel_is_imported(wheel):
    """A requirement that nothing imports is downloaded by everybody for nothing."""
    always, _ = requirements(wheel)
    used = {name for path in PACKAGE.rglob("*.py") for name, _ in imports(path)}
    assert sorted(always - used - set(NEEDED_BY_OTHERS)) == [], "nothing imports these"
    assert set(NEEDED_BY_OTHERS) <= always - used, "these reasons are out of date"


def test_the_wheel_is_what_is_imported(stranger):
    done = run(stranger, "python", "-c", "import thesis_surrogates, torch; print(thesis_surrogates.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout and "/env/" in done.stdout


def test_the_site_needs_a_checkout(stranger):
    done = run(stranger, "surrogates", "site")
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert done.stderr.startswith("error: ") and "make site" in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )


def test_a_tiny_experiment_from_an_empty_folder(stranger):
    """Generate, train, read back: nothing but the wheel, and nothing written outside the folder."""
    python, empty, env = stranger
    config = ROOT / "tests" / "tiny.yaml"
    (empty / "tiny.yaml").write_text(config.read_text())
    done = run(stranger, "surrogates", "run", "tiny.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = list((empty / "outputs" / "runs").glob("*/*/run.json"))
    assert len(runs) == 1, sorted(p.as_posix() for p in empty.rglob("*"))
    code = "import thesis_surrogates as t; table = t.load_runs('outputs'); print(list(table['status']))"
    done = run(stranger, "python", "-c", code)
    assert done.stdout.strip() == "['done']", done.stdout + done.stderr[-2000:]
    done = run(stranger, "surrogates", "run", "tiny.yaml", "--set", "model.no_such_key=1")
    assert done.returncode != 0 and "no_such_key" in done.stdout + done.stderr
