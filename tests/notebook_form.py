"""How a notebook is built and worded: what breaks the rules of CONTRIBUTING, "How a notebook reads", cell by cell."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "thesis_surrogates"
NOTEBOOKS = sorted(
    p for p in NBS.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)
)
NAMES = [p.relative_to(NBS).as_posix() for p in NOTEBOOKS]
PAGES = [name for name in NAMES if not name.startswith("experiments/")]  # templates are read by papermill
WRITTEN_BY_HAND = (
    *("tests", "benchmarks", "site", "data/samples", "cpp/golden", ".ci/drift", ".ci/notebooks", ".ci/stored.py"),
    *(f"thesis_surrogates/{name}.py" for name in ("cli", "_cli_results", "__main__", "_site")),
)

CELL_LINES = 40
EXPORTED_IN_A_ROW = 3
CELLS_BEFORE_WORK = 3
FIRST_PROSE_LINES = 15
SENTENCE_WORDS = 35
LINE_COLUMNS = 120
MODULE_LINES = 300
MODULE_STEP = 20  # a longer module is listed with the next multiple of this

# A rule, as CONTRIBUTING words it.
RULES = {
    "long_cells": f"A code cell has at most {CELL_LINES} lines.",
    "exported_in_a_row": f"At most {EXPORTED_IN_A_ROW} exported cells follow each other without a lesson.",
    "late_work": f"A notebook is at work within its first {CELLS_BEFORE_WORK} code cells that are not imports.",
    "long_first_prose": f"The first prose cell has at most {FIRST_PROSE_LINES} lines.",
    "no_reference": "The first prose of a module names a reference: author and year, a standard, or an address.",
    "long_sentences": f"A sentence has at most {SENTENCE_WORDS} words, counted up to the next . ! ? : or ;",
    "long_lines": f"A line of code has at most {LINE_COLUMNS} columns.",
    "long_modules": f"A module has at most {MODULE_LINES} lines of code, blank lines not counted.",
    "busy_results_cells": "A cell of a results page is one call: one expression, without a loop, branch or sum in it.",
}
REFERENCE = r"\b(?:1[89]|20)\d\d\b|\bRFC \d|arXiv|https?://|\bStd\.? \d|\bISO \d"
Found = dict[str, str]  # id of a cell -> what is wrong with it


@cache
def cells(name: str) -> tuple[dict, ...]:
    """Cells of a notebook, each with its source joined."""
    notebook = json.loads((NBS / name).read_text(encoding="utf-8"))
    return tuple({**c, "source": "".join(c["source"])} for c in notebook["cells"])


def directive(source: str, name: str) -> re.Match[str] | None:
    return re.search(rf"^#\|\s*{name}\b:?[ \t]*(\S*)", source, re.MULTILINE)


def code_cells(name: str) -> list[dict]:
    return [c for c in cells(name) if c["cell_type"] == "code"]


def prose_cells(name: str) -> list[dict]:
    return [c for c in cells(name) if c["cell_type"] == "markdown"]


def statements(source: str) -> list[ast.stmt] | None:
    """The statements of a cell; None where IPython's own commands stand in it."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        return None


def is_import(statement: ast.stmt) -> bool:
    for_types = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    return for_types or isinstance(statement, (ast.Import, ast.ImportFrom))


def working_cells(name: str) -> list[dict]:
    """The code cells that hold more than imports, comments and the name of the module."""
    bodies = [(cell, statements(cell["source"])) for cell in code_cells(name)]
    return [cell for cell, body in bodies if body is None or not all(map(is_import, body))]


def is_lesson(cell: dict) -> bool:
    return not any(directive(cell["source"], word) for word in ("export", "exports", "exporti", "hide"))


def count_lines(text: str) -> int:
    return text.count("\n") + 1


def long_cells(name: str) -> Found:
    sizes = {cell["id"]: count_lines(cell["source"]) for cell in code_cells(name)}
    return {cell: f"{size} lines" for cell, size in sizes.items() if size > CELL_LINES}


def exported_in_a_row(name: str) -> Found:
    """The first cell of each row that is too many."""
    found, row = {}, 0
    for cell in working_cells(name):
        row = 0 if is_lesson(cell) else row + 1
        if row == EXPORTED_IN_A_ROW + 1:
            found[cell["id"]] = f"exported cell number {row} without a lesson"
    return found


def late_work(name: str) -> Found:
    first = working_cells(name)[:CELLS_BEFORE_WORK]
    late = len(first) == CELLS_BEFORE_WORK and not any(map(is_lesson, first))
    return {first[0]["id"]: f"{CELLS_BEFORE_WORK} cells of machinery before the first use"} if late else {}


def first_prose(name: str) -> tuple[str, str]:
    """Cell id and text of what follows the title and its one line: in their cell, or in the next cell of prose."""
    title, *others = prose_cells(name)
    rest = re.split(r"\n\s*\n", title["source"].strip(), maxsplit=2)[2:]
    if rest or not others:
        return title["id"], "".join(rest)
    return others[0]["id"], others[0]["source"].strip()


def long_first_prose(name: str) -> Found:
    cell, text = first_prose(name)
    lines = count_lines(text)
    return {cell: f"{lines} lines"} if lines > FIRST_PROSE_LINES else {}


def no_reference(name: str) -> Found:
    if not any(directive(cell["source"], "default_exp") for cell in code_cells(name)):
        return {}  # guides, results and overviews refer to the notebooks that have the references
    opening = prose_cells(name)[:2]
    cited = any(re.search(REFERENCE, cell["source"]) for cell in opening)
    return {} if cited else {opening[-1]["id"]: "no reference"}


def sentences(text: str) -> list[str]:
    """Sentences of prose, without headings, tables and listings; a formula and a name in code count as one word."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$", " X ", text, flags=re.DOTALL)
    text = re.sub(r"^(?:#|\s*\|).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\$[^$]*\$|`[^`]*`", "X", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    items = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", text)
    ends = r"(?<=[.!?:;])\s+(?=[A-Z*\[`(X])|(?<=[.!?])\)?\s+"
    return [s.strip() for item in items for s in re.split(ends, item.replace("\n", " ")) if s.strip()]


def count_words(sentence: str) -> int:
    return sum(1 for word in sentence.split() if re.search(r"\w", word))


def long_sentences(name: str) -> Found:
    found = {}
    for cell in prose_cells(name):
        long = [s for s in sentences(cell["source"]) if count_words(s) > SENTENCE_WORDS]
        if long:
            found[cell["id"]] = f"{count_words(long[0])} words: {long[0][:60]}..."
    return found


def busy_results_cells(name: str) -> Found:
    """Cells after the first one, which reads the facts."""
    branching = (ast.comprehension, ast.IfExp, ast.Lambda, ast.BoolOp, ast.BinOp)
    found = {}
    for cell in working_cells(name)[1:] if name.startswith("07_results/") else ():
        body = statements(cell["source"]) or []
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            found[cell["id"]] = f"{len(body)} statements"
        elif any(isinstance(node, branching) for node in ast.walk(body[0])):
            found[cell["id"]] = "a loop, a branch or a sum"
    return found


@cache
def long_lines() -> dict[str, Found]:
    """What ruff's rule E501 reports: the cells of a notebook, and for a file written by hand how many of its lines."""
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--no-cache", "--exit-zero", "--select", "E501"]
    options = ["--config", f"line-length={LINE_COLUMNS}", "--output-format", "json"]
    listed = subprocess.run(
        [*ruff, *options, "nbs", *WRITTEN_BY_HAND], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, Found] = {}
    rows: dict[str, list[str]] = {}
    for entry in json.loads(listed.stdout):
        path = Path(entry["filename"])
        row = f"line {entry['location']['row']}: {entry['message']}"
        if entry["cell"]:
            name = path.relative_to(NBS).as_posix()
            found.setdefault(name, {})[cells(name)[entry["cell"] - 1]["id"]] = row
        else:
            rows.setdefault(path.relative_to(ROOT).as_posix(), []).append(row)
    return found | {name: {f"{len(long)} lines": "; ".join(long)} for name, long in rows.items()}


def long_modules() -> dict[str, Found]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = sum(1 for line in text.splitlines() if line.strip() and not line.startswith("# %%"))
        if lines > MODULE_LINES and path.name != "_modidx.py":
            rounded = -(-lines // MODULE_STEP) * MODULE_STEP
            found[path.relative_to(ROOT).as_posix()] = {f"up to {rounded} lines": f"{lines} lines"}
    return found


CHECKS: dict[str, Callable[[str], Found]] = {
    "long_cells": long_cells,
    "exported_in_a_row": exported_in_a_row,
    "late_work": late_work,
    "long_first_prose": long_first_prose,
    "no_reference": no_reference,
    "long_sentences": long_sentences,
    "busy_results_cells": busy_results_cells,
}
WHOLE_TREE: dict[str, Callable[[], dict[str, Found]]] = {"long_lines": long_lines, "long_modules": long_modules}


def find_breaches(rule: str) -> dict[str, Found]:
    """Notebook (or file) -> cells that break one rule."""
    if rule in WHOLE_TREE:
        return WHOLE_TREE[rule]()
    found = {name: CHECKS[rule](name) for name in PAGES}
    return {name: cells for name, cells in found.items() if cells}


def propose_reason(rule: str, name: str, cell_id: str) -> str:
    """What stands in the list until somebody has looked at the cell."""
    if rule == "long_modules":
        return "to be divided"
    if rule != "long_cells":
        return "to be mended"
    source = next(cell["source"] for cell in code_cells(name) if cell["id"] == cell_id)
    constants = (ast.Assign, ast.AnnAssign)
    parts = [s for s in statements(source) or [] if not is_import(s) and not isinstance(s, constants)]
    if len(parts) == 1 and isinstance(parts[0], ast.ClassDef):
        return "one class"
    return "to be divided" if parts else "one record, its fields below each other"
