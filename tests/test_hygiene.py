"""The notebooks are fit to be read, reviewed and kept in git. Each check names the notebook, the cell and the rule.

The rules of form stand in notebook_form.py. What breaks one today is listed in form_exceptions.json, each cell with its
reason. A cell that is not listed fails the test, and so does one that is listed and breaks the rule no more.
`python tests/test_hygiene.py` writes the list anew and keeps its reasons; where nobody has given one, the cell is to be
divided or mended.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest
from notebook_form import (
    NAMES,
    NBS,
    NOTEBOOKS,
    PACKAGE,
    ROOT,
    RULES,
    cells,
    count_words,
    directive,
    find_breaches,
    propose_reason,
    sentences,
)

SCRIPT = "tests/test_hygiene.py"
EXCEPTIONS = ROOT / "tests" / "form_exceptions.json"
HAND_WRITTEN = {"__init__.py", "_modidx.py", "_site.py", "cli.py", "_cli_results.py", "__main__.py"}
# Cells that are shown and not run: each needs its reason in the prose before it, and its place in this list.
SHOWN_ONLY: dict[str, int] = {}
ROOMS = {"networks", "trust", "study", "exchange", "compiled"}
OLD_NAMES = {"rival", "rivals", "duel", "duels", "said", "reach", "reaches", "worth", "peer", "peers"}
BY_THEIR_SYMBOLS = {"flavor/asymptotics.py"}  # hbar, c and G_F in cgs
UNIT_IN_COMMENT = (
    r"^([A-Z][A-Z0-9_]*)(?:: [^=\n]+)? = [^#\n]*\d[^#\n]*# (mm|s|seconds|bytes|GeV|rad|percent|km)\b(?!,? (?:and|mm))"
)
UNIT_NAMES = {"s": "SECONDS", "seconds": "SECONDS"}
NOTEBOOK_KB, AVERAGE_NOTEBOOK_KB = 200, 60
FIGURES, FIGURE_KB = 6, 75


def code(name: str) -> list[tuple[int, str]]:
    """Number and source of the code cells."""
    return [(i, c["source"]) for i, c in enumerate(cells(name)) if c["cell_type"] == "code"]


def outputs(name: str) -> list[tuple[int, str]]:
    """Number of the cell and text of each stored output; pictures left out."""
    found = []
    for i, cell in enumerate(cells(name)):
        for output in cell.get("outputs", []):
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            parts = [output.get("text", ""), *data.values(), output.get("traceback", "")]
            found.append((i, "\n".join("".join(map(str, p)) for p in parts)))
    return found


def module_of(name: str) -> str | None:
    for _, source in code(name):
        match = directive(source, "default_exp")
        if match:
            return match[1]
    return None


@pytest.mark.parametrize("name", NAMES)
def test_size(name):
    size = (NBS / name).stat().st_size / 1000
    assert size <= NOTEBOOK_KB, (
        f"{name} has {size:.0f} kB, more than {NOTEBOOK_KB}: fewer or smaller figures (dpi 80), shorter tables"
    )


def test_size_of_all_notebooks():
    average = sum(p.stat().st_size for p in NOTEBOOKS) / 1000 / len(NOTEBOOKS)
    assert average <= AVERAGE_NOTEBOOK_KB, (
        f"nbs/ holds {len(NOTEBOOKS)} notebooks of {average:.0f} kB on average, more than {AVERAGE_NOTEBOOK_KB}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_begins_with_title_and_one_line(name):
    first = cells(name)[0]
    if first["cell_type"] == "raw":  # front matter of a papermill template
        assert "title:" in first["source"]
        return
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \S[^\n]*\n\n> \S[^\n]*(\n|$)", first["source"]), (
        f"{name}: the first cell begins with '# Title', an empty line, '> one line'"
    )


def read_exceptions() -> dict[str, dict[str, dict[str, str]]]:
    """Rule -> notebook or file -> cell id -> reason."""
    return json.loads(EXCEPTIONS.read_text(encoding="utf-8"))


def listed_pairs(entries: dict[str, dict[str, str]]) -> set[tuple[str, str]]:
    return {(name, cell) for name, found in entries.items() for cell in found}


@pytest.mark.parametrize("rule", RULES)
def test_form(rule):
    found, listed = find_breaches(rule), read_exceptions()[rule]
    new = [f"{name}, cell {cell}: {found[name][cell]}" for name, cell in listed_pairs(found) - listed_pairs(listed)]
    assert not new, "\n".join([RULES[rule], *sorted(new), f"Mend it, or list it with its reason in {EXCEPTIONS.name}."])
    gone = sorted(listed_pairs(listed) - listed_pairs(found))
    assert not gone, f"mended, and still listed in {EXCEPTIONS.name} under {rule} (python {SCRIPT} writes it): {gone}"


def test_each_exception_has_its_reason():
    exceptions = read_exceptions()
    assert list(exceptions) == list(RULES)
    for rule, entries in exceptions.items():
        bare = [(name, cell) for name, cell in listed_pairs(entries) if not entries[name][cell].strip()]
        assert not bare, f"no reason in {EXCEPTIONS.name} under {rule}: {bare}"


def test_contributing_names_the_limits_that_are_checked():
    page = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    limits = [
        *RULES.values(),
        f"A notebook has at most {NOTEBOOK_KB} kB, all of them {AVERAGE_NOTEBOOK_KB} kB on average.",
        f"At most {FIGURES} figures, each of at most {FIGURE_KB} kB.",
    ]
    missing = [limit for limit in limits if limit not in page]
    assert not missing, f"CONTRIBUTING.md, 'How a notebook reads', does not say: {missing}"


def test_words_of_a_sentence_are_counted_as_a_reader_counts():
    prose = "One: two `three four` $a + b$, [five](six.ipynb). And more\nof it!"
    text = f"# A heading\n\n{prose}\n\n- an item\n- another\n\n| a | b |"
    assert [count_words(s) for s in sentences(text)] == [5, 4, 2, 1]


@pytest.mark.parametrize("name", NAMES)
def test_no_hidden_assertions(name):
    hidden = [
        i
        for i, s in code(name)
        if directive(s, "hide") and re.search(r"^\s*assert\b|expect_fail|pytest\.raises", s, re.MULTILINE)
    ]
    assert not hidden, f"{name}: cells {hidden} hide assertions; what teaches is shown, what only guards goes to tests/"


@pytest.mark.parametrize("name", NAMES)
def test_imports_are_explicit(name):
    starred = [i for i, s in code(name) if re.search(r"^\s*from\s+\S+\s+import\s+\*", s, re.MULTILINE)]
    assert not starred, f"{name}: star imports in cells {starred}"
    patched = [i for i, s in code(name) if directive(s, "export") and re.search(r"^@patch", s, re.MULTILINE)]
    assert not patched, f"{name}: @patch in cells {patched}; type checkers cannot follow it"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_belong_in_git(name):
    bad = []
    for i, text in outputs(name):
        for what, pattern in {
            "an absolute path": r"(?<![\w.:/])/(?:home|root|tmp|work|Users|var|opt|mnt|usr|private)/[\w.-]+",
            "a progress bar": r"\d+%\|[ █▏▎▍▌▋▊▉#]*\||it/s\]",
            "a warning": r"\b\w*Warning: ",
            "a widget": r"application/vnd\.jupyter\.widget|HBox\(|FloatProgress\(",
            "a memory address": r" at 0x[0-9a-f]{6,}",
        }.items():
            match = re.search(pattern, text)
            if match:
                bad.append(f"cell {i}: {what} ({match[0]!r})")
    widgets = [
        i
        for i, c in enumerate(cells(name))
        for o in c.get("outputs", [])
        if any("widget" in k for k in o.get("data", {}))
    ]
    assert not bad and not widgets, f"{name}: {bad} {widgets}"


CLOCKS = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "monotonic", "thread_time"}


def names_below(node: ast.AST) -> set[str]:
    """Names and attributes of an expression; what is only compared does not count, since it shows no digits."""
    if isinstance(node, ast.Compare):
        return set()
    own = {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()
    return own.union(*map(names_below, ast.iter_child_nodes(node)))


def shows_a_time(source: str, timed: set[str]) -> bool:
    """Whether a cell prints what a clock gave; names that hold such a value are added to `timed`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):  # in the order of levels: assignments of a cell stand before their use
        if isinstance(node, ast.FunctionDef) and any(names_below(part) & CLOCKS for part in node.body):
            timed.add(node.name)
        if isinstance(node, ast.Assign | ast.AugAssign) and node.value and names_below(node.value) & (timed | CLOCKS):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            timed |= {t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)}
    shown = [node.value for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)]
    shown += [a for n in ast.walk(tree) if isinstance(n, ast.Call) and names_below(n.func) == {"print"} for a in n.args]
    return any(names_below(value) & (timed | CLOCKS) for value in shown)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("b = time.perf_counter()\nc = time.perf_counter() - b\nprint(f'{1e3 * c:.1f} ms')", True),
        ("def cost():\n    return time.process_time()\nprint(cost())", True),
        ("b = time.perf_counter()\nprint('fast' if time.perf_counter() - b < 1 else 'slow')", False),
        ("print(f'{count} rows')", False),
    ],
)
def test_a_shown_time_is_found(source, shown):
    assert shows_a_time(source, set()) == shown


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_that_shows_a_time_says_so(name):
    timed: set[str] = set()
    bad = [
        c["id"]
        for c in cells(name)
        if c["cell_type"] == "code"
        and not c["source"].startswith("%")
        and shows_a_time(c["source"], timed)
        and any("text" in o or "text/plain" in o.get("data", {}) for o in c.get("outputs", []))
        and "varies" not in c["metadata"].get("tags", [])
    ]
    assert not bad, f"{name}: cells {bad} show a time, which differs from run to run; give them the tag `varies`"


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_few_and_small(name):
    pictures = [
        (i, len("".join(v)))
        for i, c in enumerate(cells(name))
        for o in c.get("outputs", [])
        for k, v in o.get("data", {}).items()
        if k == "image/png"
    ]
    assert len(pictures) <= FIGURES, f"{name}: {len(pictures)} figures, at most {FIGURES} serve a reader"
    large = [f"cell {i}: {n * 3 // 4000} kB" for i, n in pictures if n * 3 / 4 > FIGURE_KB * 1000]
    assert not large, f"{name}: {large}; draw at dpi 80"


def test_one_notebook_a_module():
    seen = defaultdict(list)
    for name in NAMES:
        seen[module_of(name)].append(name)
    seen.pop(None, None)
    double = {k: v for k, v in seen.items() if len(v) > 1}
    assert not double, f"the last one silently wins: {double}"


def test_rooms_of_a_system_carry_the_same_names():
    """Who has read one system finds everything in the next."""
    homes = [path.parent for path in PACKAGE.glob("*/system.py") if path.parent.name != "core"]
    rooms = {home.name: {p.parent.name for p in home.glob("*/__init__.py")} - ROOMS for home in homes}
    found = {system: sorted(others) for system, others in rooms.items() if others}
    assert not found, f"rooms of a system are {sorted(ROOMS)}; a large one may have rooms of its own: {found}"


def test_every_module_has_a_notebook():
    exported = {m.replace(".", "/") + ".py" for m in map(module_of, NAMES) if m}
    there = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
    orphans = {p for p in there - exported if Path(p).name != "__init__.py"} - HAND_WRITTEN
    assert not orphans, f"no notebook exports {sorted(orphans)}: delete them, or write the notebook"
    assert not exported - there, f"run `make export`: {sorted(exported - there)} are missing"


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
)
def test_what_is_public_says_what_it_is(path):
    definitions = [
        n
        for n in ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef))
    ]
    silent = [n.name for n in definitions if not n.name.startswith("_") and not ast.get_docstring(n)]
    assert not silent, f"{path}: no docstring on {silent}"


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
)
def test_public_functions_are_typed(path):
    bare = []
    for node in ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            compiled = any(re.search("jit|compiled", ast.unparse(d)) for d in node.decorator_list)
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if not compiled and node.returns is None or any(a.annotation is None and not compiled for a in arguments):
                bare.append(node.name)
    assert not bare, f"{path}: types are missing on {bare}"


def test_arguments_are_explained_beside_them():
    """A table `Args:` in a docstring says a second time what the signature lists."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and "Args:" in (ast.get_docstring(node) or ""):
                found.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not found, f"write what an argument means as a comment beside it: {found}"


def words_of_names(path: Path) -> set[str]:
    """The words that the names in a file are made of, a test's own name left out."""
    with path.open("rb") as file:
        names = {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    return {word for name in names if not name.startswith("test_") for word in name.lower().split("_")}


def test_no_name_is_of_the_older_dialect():
    written = [p for folder in ("benchmarks", "site", "tests") for p in (ROOT / folder).glob("*.py")]
    found = {
        str(p.relative_to(ROOT)): words_of_names(p) & OLD_NAMES
        for p in [*PACKAGE.rglob("*.py"), *written]
        if p.name != "_modidx.py"
    }
    found = {name: words for name, words in found.items() if words}
    assert not found, f"names in words of earlier versions; write baseline, comparison, status, what is meant: {found}"


def test_one_module_opens_hdf5():
    opens = re.compile(r"^\s*(import|from) h5py\b", re.MULTILINE)
    found = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if opens.search(path.read_text())]
    assert found == ["core/hdf5.py"]


def test_constants_carry_their_unit():
    """A number whose comment begins with its unit has the unit in its name, too."""
    bare = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() in BY_THEIR_SYMBOLS:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, unit in re.findall(UNIT_IN_COMMENT, "\n".join(lines), re.MULTILINE):
            if not name.endswith(f"_{UNIT_NAMES.get(unit, unit.upper())}"):
                bare.append(f"{path.relative_to(PACKAGE)}: {name} [{unit}]")
    assert not bare, f"constants without the unit that their comments name: {bare}"


def test_cells_that_are_not_run_are_listed():
    found = {}
    for name in NAMES:
        n = sum(1 for _, s in code(name) if (directive(s, "eval") or [None, ""])[1] == "false")
        if n:
            found[name] = n
    assert found == SHOWN_ONLY, "a cell with `eval: false` needs a reason in prose and its notebook in SHOWN_ONLY"


def test_templates_have_no_outputs_and_one_parameters_cell():
    for path in sorted((NBS / "experiments").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, f"{path.name}: papermill needs exactly one cell tagged 'parameters'"
        assert not any(c.get("outputs") for c in notebook["cells"]), f"{path.name}: templates are kept without outputs"


def test_tags_survive_nbdev_clean(tmp_path):
    """nbdev_clean strips papermill's tags unless settings.ini keeps them."""
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "id": "a1",
                "metadata": {"tags": ["parameters"], "scrolled": True},
                "source": "x = 1",
                "outputs": [],
                "execution_count": 3,
            }
        ],
        "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    (tmp_path / "nbs").mkdir()
    path = tmp_path / "nbs" / "template.ipynb"
    path.write_text(json.dumps(notebook))
    subprocess.run([Path(sys.executable).with_name("nbdev_clean"), "--fname", path], check=True, cwd=tmp_path)
    cell = json.loads(path.read_text())["cells"][0]
    assert cell["metadata"] == {"tags": ["parameters"]} and cell["execution_count"] is None


def test_every_page_is_in_the_sidebar():
    import yaml
    from site_tools import render

    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    listed = set(render.sources_of(render.expand_sidebar(config["website"]["sidebar"]["contents"], NBS)))
    assert set(n for n in NAMES if not n.startswith("experiments/")) == listed


def test_nothing_names_the_machine_it_was_written_on():
    """Tracked text says nothing of one person's folders."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = [re.escape(str(ROOT)), re.escape(str(Path.home())), "/root", "/work"]
    pattern = rf"(?<![\w.*{{(|$])(?:{'|'.join(places)})/[\w./-]+"
    bad = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if (
            path.suffix
            in {
                ".py",
                ".md",
                ".toml",
                ".ini",
                ".yml",
                ".yaml",
                ".ipynb",
                ".lua",
                ".html",
                ".cpp",
                ".h",
                ".json",
                ".csv",
                ".txt",
            }
            and path.is_file()
        ):
            match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
            if match and not name.startswith("tests/test_hygiene"):
                bad.append(f"{name}: {match[0]}")
    assert not bad, bad


def write_exceptions() -> None:
    """The list of today's exceptions; reasons that were given stay."""
    before = read_exceptions() if EXCEPTIONS.exists() else {}
    listed = {}
    for rule in RULES:
        reasons = before.get(rule, {})
        listed[rule] = {
            name: {cell: reasons.get(name, {}).get(cell) or propose_reason(rule, name, cell) for cell in found}
            for name, found in sorted(find_breaches(rule).items())
        }
    EXCEPTIONS.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_exceptions()
