"""The guides name every place that has to be edited, and each of these places knows every system and every model."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from thesis_surrogates.running.registry import SYSTEMS, get_system

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "thesis_surrogates"


@cache
def read(name: str) -> str:
    """Text of a tracked file; of a notebook what was written, not what it showed."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"]) if name.endswith(".ipynb") else text


def place_of(system: str) -> tuple[str, str]:
    """Folder and notebook of a record; a second task shares the folder of the first one."""
    place = SYSTEMS.get(system, f"thesis_surrogates.{system}.system")
    _, folder, notebook = str(place).split(".")
    return folder, notebook


def has_notebooks(system: str) -> bool:
    folder, notebook = place_of(system)
    return all(list(NBS.glob(f"[0-9]*_{folder}/{name}")) for name in ("index.ipynb", f"*_{notebook}.ipynb"))


def has_suites(system: str) -> bool:
    return all((NBS / "experiments" / "suites" / system / f"{name}.yaml").is_file() for name in ("demo", "smoke"))


def has_sidebar(system: str) -> bool:
    contents = yaml.safe_load(read("_quarto.yml"))["website"]["sidebar"]["contents"]
    patterns = [entry.get("auto", "") for section in contents for entry in section.get("contents", [])]
    return any(re.fullmatch(rf"\w+_{place_of(system)[0]}/\*\.ipynb", pattern) for pattern in patterns)


def has_import_law(system: str) -> bool:
    law = configparser.ConfigParser()
    law.read_string(read(".importlinter"))
    layers, folder = law["importlinter:contract:layers"]["layers"], place_of(system)[0]
    return f"({folder})" in layers and f"thesis_surrogates.{folder}\n" in (
        law["importlinter:contract:cli"]["forbidden_modules"] + "\n"
    )


def names_it(place: str, pattern: str) -> Callable[[str], bool]:
    """Whether a file holds a pattern, in which NAME stands for the system and FOLDER for its folder."""

    def found(system: str) -> bool:
        words = pattern.replace("NAME", system).replace("FOLDER", place_of(system)[0])
        return bool(re.search(words, read(place), re.MULTILINE | re.IGNORECASE))

    return found


# What a system that stays needs, as the guide names it, and whether a system has it.
PLACES: dict[str, Callable[[str], bool]] = {
    "nbs/05b_NAME/": has_notebooks,
    "nbs/experiments/suites/NAME/": has_suites,
    "nbs/06_running/00_registry.ipynb": names_it(
        "nbs/06_running/00_registry.ipynb", r'^    "NAME": "thesis_surrogates\.FOLDER\.\w+",$'
    ),
    ".importlinter": has_import_law,
    "pyproject.toml": names_it(
        "pyproject.toml", r'^"share/\S+/suites/NAME" = \["nbs/experiments/suites/NAME/\*\.yaml"\]$'
    ),
    "_quarto.yml": has_sidebar,
    "nbs/07_results/05_NAME.ipynb": lambda system: bool(list(NBS.glob(f"07_results/[0-9]*_{system}.ipynb"))),
    "nbs/07_results/index.ipynb": names_it("nbs/07_results/index.ipynb", r"\[NAME\]\(\w+_NAME\.ipynb\)"),
    "README.md": names_it("README.md", r"^\| `NAME` \|"),
    "data/README.md": names_it("data/README.md", r"^## FOLDER \(`nbs/\w+_FOLDER/"),
    "tests/test_systems.py": names_it("tests/test_systems.py", r'^    "NAME": lambda split, data: '),
    "CHANGELOG.md": names_it("CHANGELOG.md", r"`NAME`"),
}
# Files that name all systems and have nothing to be edited for one more.
OTHERS = {
    "tests/model_identities.json": "what was published before a change; new runs need no entry",
    "tests/published.json": "what was published before a change; new runs need no entry",
    "tests/test_pages.py": "links of pages, one example of each kind",
    "tests/test_guides.py": "this list",
    "tests/test_core_data_files.py": "how each system that has files of its own reads several of them",
    "tests/form_exceptions.json": "notebooks of every folder, written by a command",
    "CONTRIBUTING.md": "names that changed, in every folder of the package",
    "benchmarks/training_loop.py": "one network of each kind; what a new system costs is measured where it is wanted",
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_knows_every_system(place):
    missing = [system for system in SYSTEMS if not PLACES[place](system)]
    assert not missing, (
        f"{place} lacks {', '.join(missing)}; nbs/08_guides/02_add_a_system.ipynb says what belongs there"
    )


@pytest.mark.parametrize("place", PLACES)
def test_no_place_knows_a_system_that_is_not_there(place):
    assert not PLACES[place]("pendulum")


def test_a_second_task_shares_the_folder_of_the_first(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "tagging", "thesis_surrogates.events.metrics")
    shared = [place for place in PLACES if PLACES[place]("tagging")]
    assert shared == ["nbs/05b_NAME/", ".importlinter", "_quarto.yml", "data/README.md"]


def test_the_guide_names_the_places_that_are_tested():
    _, _, end = read("nbs/08_guides/02_add_a_system.ipynb").partition("## What a system that stays needs")
    assert re.findall(r"^\| `([^`]+)` \|", end, re.MULTILINE) == list(PLACES)


def test_no_other_file_lists_the_systems():
    """A list written anew is one more place to edit: make it from the registry, or name it here and in the guide."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    generated = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")} - {
        f"thesis_surrogates/{name}.py" for name in ("cli", "_cli_results")
    }
    found = set()
    for name in set(done.stdout.splitlines()) - generated:
        kind = Path(name).suffix
        if name.startswith("outputs/") or (ROOT / name).is_symlink() or kind in {".pt", ".png", ".csv", ".npz"}:
            continue
        try:
            words = {word.lower() for word in re.findall(r"[A-Za-z]+", read(name))}
        except (UnicodeDecodeError, FileNotFoundError):  # no text, or deleted and not committed yet
            continue
        if words >= set(SYSTEMS):
            found.add(name)
    assert found - set(PLACES) - set(OTHERS) == set(), "these files list the systems too"


def test_the_makefile_takes_the_systems_from_the_suites():
    folders = {path.name for path in (NBS / "experiments" / "suites").iterdir() if path.is_dir()}
    assert folders == set(SYSTEMS)
    done = subprocess.run(["make", "-n", "published"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(re.search(rf"\bfor system in [^;]*\b{system}\b", done.stdout) for system in SYSTEMS)


@cache
def strings_of(path: Path) -> list[str]:
    """Texts in the code of a module, its list of public names left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [
        node for node in tree.body if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]
    nodes = [inner for node in body for inner in ast.walk(node)]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize(
    "system, model", [(system, model) for system in SYSTEMS for model in get_system(system).models]
)
def test_a_model_is_one_class_and_one_line(system, model):
    """Whoever adds a model edits no switch: its name stands in its class, in MODELS and in reports on one study."""
    own = Path(inspect.getfile(get_system(system).models[model]))
    dictionary = PACKAGE / system / "models.py"
    assert model in strings_of(own) and model in strings_of(dictionary)
    for folder in (PACKAGE / "core", PACKAGE / "running", PACKAGE / system):
        for path in set(folder.rglob("*.py")) - {own, dictionary}:
            reports = (
                path.relative_to(PACKAGE / system).parts[0] in {"study", "trust"} if folder.name == system else False
            )
            assert reports or model not in strings_of(path), f"{path.relative_to(ROOT)} asks for the model {model!r}"
