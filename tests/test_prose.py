"""What pages name in backticks is there: modules and functions, commands and options, keys, files and links.

Pages are the documents, the prose of notebooks, and the docstrings and comments of the code. A name that changed and
was forgotten in a sentence fails here, with the page and the span.
"""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import click
import typer
from notebook_form import NBS, NOTEBOOKS, PACKAGE, ROOT, cells
from package_names import FOLDERS, is_there
from pydantic import BaseModel

from thesis_surrogates.cli import app
from thesis_surrogates.running.registry import SYSTEMS, get_system

DOCUMENTS = ("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "cpp/README.md", "data/README.md")
WRITTEN = [p for folder in ("benchmarks", "site", "tests") for p in (ROOT / folder).glob("*.py")]
CODE = sorted([*PACKAGE.rglob("*.py"), *WRITTEN])
PAGES = [*DOCUMENTS, *(p.relative_to(ROOT).as_posix() for p in NOTEBOOKS)]
TEXTS = [*PAGES, *(p.relative_to(ROOT).as_posix() for p in CODE)]

SHELLS = ("bash", "sh", "")
IN_A_GUIDE = {"pendulum"}  # a system that one guide writes and takes out again
PLACEHOLDER = re.compile(r"[<>*{}$]|NAME|SYSTEM|SUITE|COMMAND")  # a part that stands for what the reader puts there
FILE_ENDINGS = ("jsonl", "csv", "yaml", "md", "ipynb", "py", "h5", "npz", "bin", "h", "hpp", "cpp")
MADE_BY_COMMANDS = ("outputs/runs", "outputs/reports", "outputs/sweeps", "data/")
OLD_WORDS = {  # of earlier versions, and what the field says
    r"rivals?": "baseline, or the method that is at least as accurate",
    r"duels?": "comparison",
    r"peers?": "what it is compared with",
    r"as exact as": "as accurate as",
    r"said": "returned, or stated",
}
TREE = r"(?<![\w/.])((?:nbs|thesis_surrogates|tests|site|benchmarks|cpp|\.ci|outputs|data)/[\w./*<>{}-]*)"
KEY = r"(?<![\w./-])((?:data|train|model)(?:\.[a-z_]+)+)(?![\w(/])"


def comments_and_docstrings(text: str) -> str:
    tree = ast.parse(text)
    owners = (ast.Module, ast.FunctionDef, ast.ClassDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, owners)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n\n".join([*found, *(text for text in comments if not text.startswith("# %%"))])


@cache
def read(page: str) -> str:
    """The words of a page: of a notebook its prose, of a module its docstrings and comments."""
    path = ROOT / page
    if path.suffix == ".ipynb":
        name = path.relative_to(NBS).as_posix()
        return "\n\n".join(cell["source"] for cell in cells(name) if cell["cell_type"] == "markdown")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return comments_and_docstrings(text)
    return text.split("\n## What was renamed")[0].split("\n## [0.1.0]")[0]  # what follows holds the names of before


FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@cache
def spans(page: str) -> tuple[str, ...]:
    """What stands between backticks in running text, on one line."""
    found = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", FENCE.sub("", read(page)))
    return tuple(re.sub(r"\s*\n(?:# )?\s*", " ", span).strip() for span in found)


def command_lines(page: str) -> Iterator[str]:
    """Lines that a reader may type: those of listings, and spans that begin with a command."""
    for language, body in FENCE.findall(read(page)):
        if language in SHELLS:
            for line in body.replace("\\\n", " ").splitlines():
                yield from re.split(r"&&|;|\|", re.sub(r"(?:^|\s)#.*", "", line))
    yield from spans(page)


def words_of(line: str) -> list[str]:
    """The words behind `surrogates`; empty where the line calls something else."""
    found = re.match(r"\s*(?:exec |\.venv/bin/)?(surrogates|thesis-train|thesis-report)(\s.*|$)", line)
    if not found:
        return []
    first = {"surrogates": [], "thesis-train": ["run"], "thesis-report": ["report"]}[found[1]]
    return first + [word.strip("[]") for word in shlex.split(found[2])]


def fault_of(words: list[str]) -> str | None:
    """The first word that the command line does not know: a command or an option."""
    command: Any = typer.main.get_command(app)
    context = click.Context(command)
    rest = list(words)
    while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if PLACEHOLDER.search(name) or name in IN_A_GUIDE or name == "...":
            return None
        found = [command.get_command(context, one) for one in name.split("|")]  # `merge|split` is either
        if None in found:
            return name
        command = found[0]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    return next((option for option in given if option not in options | {"--help"}), None)


def keys_below(prefix: str, record: type[BaseModel]) -> Iterator[str]:
    for name, field in record.model_fields.items():
        yield f"{prefix}.{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_below(f"{prefix}.{name}", field.annotation)


@cache
def known_keys() -> frozenset[str]:
    """Keys of a run below `data`, `train` and `model`, of any system."""
    records = [("data", get_system(name).data_config) for name in SYSTEMS]
    records += [("train", get_system(name).train_config) for name in SYSTEMS]
    records += [("model", config) for name in SYSTEMS for config in get_system(name).models.values()]
    return frozenset(key for prefix, record in records for key in keys_below(prefix, record))


def faults_in(pages: Sequence[str], check: Callable[[str], list[str]]) -> dict[str, list[str]]:
    return {page: faults for page in pages if (faults := check(page))}


def test_names_of_the_package_are_there():
    pattern = rf"(?:thesis_surrogates\.)?((?:{'|'.join(FOLDERS)})\.[\w.]*\w)(?:\(.*\))?"

    def missing(page: str) -> list[str]:
        named = [found[1] for span in spans(page) if (found := re.fullmatch(pattern, span))]
        return [name for name in named if name.rpartition(".")[2] not in FILE_ENDINGS and not is_there(name)]

    found = faults_in([page for page in TEXTS if page != "CHANGELOG.md"], missing)  # which also names what is gone
    assert not found, f"names of things that are not there: {found}; CONTRIBUTING lists what was renamed"


def test_commands_and_options_are_known():
    def unknown(page: str) -> list[str]:
        faults = [(line, fault_of(words)) for line in command_lines(page) if (words := words_of(line))]
        return [f"{line} ({fault})" for line, fault in faults if fault]

    found = faults_in(TEXTS, unknown)
    assert not found, f"the command line does not know what stands in brackets: {found}"


def test_keys_of_a_run_are_known():
    def unknown(page: str) -> list[str]:
        written = {key for line in command_lines(page) for key in re.findall(KEY, line)}
        return sorted(k for k in written if k not in known_keys() and k.rpartition(".")[2] not in FILE_ENDINGS)

    found = faults_in(PAGES, unknown)
    assert not found, f"keys that no system has: {found}"


def test_make_targets_are_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    def unknown(page: str) -> list[str]:
        named = [target for line in command_lines(page) for target in re.findall(r"^\s*make ([a-z][a-z-]*)", line)]
        return [target for target in named if target not in targets]

    assert not faults_in(PAGES, unknown)


def test_files_are_there():
    def missing(page: str) -> list[str]:
        named = {name for line in command_lines(page) for name in re.findall(TREE, line)}
        checked = {name for name in named if not PLACEHOLDER.search(name) and not name.startswith(MADE_BY_COMMANDS)}
        return sorted(name for name in checked if not (ROOT / name).exists())

    found = faults_in(TEXTS, missing)
    assert not found, f"files that are not there: {found}"


def test_links_lead_to_files():
    """Where a link goes on the site is tested with the site; here also those of the documents."""

    def missing(page: str) -> list[str]:
        links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(page)))
        here = [link.partition("#")[0] for link in links if not re.match(r"https?:|mailto:|#", link)]
        return [link for link in here if not (ROOT / page).parent.joinpath(link).exists()]

    found = faults_in(PAGES, missing)
    assert not found, f"links to files that are not there: {found}"


def test_words_are_those_of_the_field():
    def old(page: str) -> list[str]:
        found = {word: re.search(rf"\b{word}\b", read(page), re.IGNORECASE) for word in OLD_WORDS}
        return [f"{match[0]} (write: {OLD_WORDS[word]})" for word, match in found.items() if match]

    assert not faults_in(PAGES, old)


def test_what_is_wrong_is_found():
    assert fault_of(["run", "small.yaml", "--set", "train.epochs=3"]) is None
    assert fault_of(["data", "tracks", "--collocation", "10"]) == "--collocation"
    assert fault_of(["tracks", "merge|split"]) is None and fault_of(["tracks", "merge|joyn"]) == "merge|joyn"
    assert words_of(".venv/bin/surrogates jobs SUITE") == ["jobs", "SUITE"] and words_of("nbdev_test") == []
    assert "train.optimizer.learning_rate" in known_keys() and "train.learning_rate" not in known_keys()
    assert is_there("core.facts.read_run") and not is_there("core.records.read_run")
