"""Execute a notebook as nbdev_test does, and compare what its cells display with what is stored in them.

Text is compared word by word, so that padding, column widths and the length of rules do not matter. Whole numbers are
equal or not; other numbers agree within RELATIVE, or if they differ by less than FLOOR, where only rounding is left.
Of a picture only its presence counts. A cell that shows a time, a speed, a version, a path, or what came out of a
training (its digits depend on the processor) carries the tag `varies`: it is compared with its numbers blanked.
"""

from __future__ import annotations

import difflib
import html
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

RELATIVE = 1e-3
FLOOR = 1e-12
VARIES = "varies"
LINES = 14  # of a difference; the rest is counted

NUMBER = r"[-+−]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
TOKEN = re.compile(rf"(?P<number>{NUMBER})|[^\W\d_]+|(?P<rule>[-=─━]{{2,}})|\S")
# What stands for a measured quantity: an absolute path, a version, a number with its unit of time, a hexadecimal name.
MEASURED = re.compile(
    r"(?<![\w/])/[\w./-]+"
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"
    rf"|{NUMBER}(?:[.:+]\w+)*(?:\s*(?:ns|µs|us|ms|s|min|h)\b)?"
)


class Difference(NamedTuple):
    """What a cell stores and what it shows now."""

    cell: int  # counted from 0, all cells
    source: str  # its first line
    stored: str
    fresh: str


def words(text: str) -> list[str]:
    """The text in numbers, words and single signs; a rule of any length is one sign."""
    return [match[0][:1] if match["rule"] else match[0] for match in TOKEN.finditer(text)]


def same_word(stored: str, fresh: str) -> bool:
    """Equal, or decimal numbers within the tolerance."""
    if stored == fresh:
        return True
    if not (re.fullmatch(NUMBER, stored) and re.fullmatch(NUMBER, fresh)):
        return False
    if re.fullmatch(r"\D?[\d,_]+", stored) and re.fullmatch(r"\D?[\d,_]+", fresh):
        return False
    a, b = (float(re.sub("[,_]", "", word).replace("−", "-")) for word in (stored, fresh))
    return a == b or abs(a - b) <= max(FLOOR, RELATIVE * max(abs(a), abs(b)))


def same_text(stored: str, fresh: str) -> bool:
    """Whether two texts agree word by word."""
    return all(a is not None and b is not None and same_word(a, b) for a, b in zip_longest(words(stored), words(fresh)))


def blank_numbers(text: str) -> str:
    """The text with `#` for each run of numbers, times, versions, paths and hexadecimal names."""
    return re.sub(r"#(?:[ \t,]*#)*", "#", MEASURED.sub("#", text))


def table_text(page: str) -> str:
    """The text of HTML, a line for each row of a table."""
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(r"</tr>|</p>|</div>|<br */?>", "\n", page)
    rows = (" ".join(html.unescape(re.sub(r"<[^>]*>", " ", row)).split()) for row in page.split("\n"))
    return "\n".join(row for row in rows if row)


def joined(text: str | Sequence[str]) -> str:
    """A text of a notebook, which may be a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def rich_text(data: Mapping[str, Any]) -> str:
    """What a reader sees of one displayed object; a widget is not stored, so it counts for nothing."""
    if any("widget" in kind for kind in data):
        return ""
    if any(kind.startswith("image/") for kind in data):
        return "[picture]"
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            return joined(data[kind])
    return table_text(joined(data["text/html"])) if "text/html" in data else joined(data.get("text/plain", ""))


def shown_text(outputs: Iterable[Mapping[str, Any]]) -> str:
    """What a cell displays as text: what it prints, then what it displays, then its value; standard error is left
    out.
    """
    kinds: dict[str, list[str]] = {"stream": [], "display_data": [], "execute_result": []}
    for output in outputs:
        if output["output_type"] == "stream" and output.get("name") == "stdout":
            kinds["stream"].append(joined(output["text"]))
        elif "data" in output:
            kinds[output["output_type"]].append(rich_text(output["data"]))
    parts = ["".join(kinds["stream"]), *kinds["display_data"], *kinds["execute_result"]]
    return "\n".join(part.rstrip("\n") for part in parts if part.strip())


def compare_cell(index: int, cell: Mapping[str, Any], fresh: Iterable[Mapping[str, Any]]) -> Difference | None:
    """The difference between the stored outputs of a cell and fresh ones, if there is one."""
    stored, now = shown_text(cell.get("outputs", [])), shown_text(fresh)
    if VARIES in cell["metadata"].get("tags", []):
        stored, now = blank_numbers(stored), blank_numbers(now)
    if same_text(stored, now):
        return None
    lines = [line for line in joined(cell["source"]).splitlines() if line.strip()]
    return Difference(index, lines[0] if lines else "", stored, now)


def wrapped(text: str) -> list[str]:
    """Lines of at most 140 signs."""
    return [piece for line in text.splitlines() for piece in textwrap.wrap(line, 140) or [""]]


def describe(name: str, difference: Difference) -> str:
    """The difference in few lines; lines that agree within the tolerance are not shown as changed."""
    stored = wrapped(difference.stored)
    fresh = [next((old for old in stored if same_text(old, line)), line) for line in wrapped(difference.fresh)]
    changes = list(difflib.unified_diff(stored, fresh, "stored", "now", lineterm="", n=0))[2:] or [
        "(the lines come in another order)"
    ]
    shown = [f"    {line}" for line in changes if not line.startswith("@@")]
    more = [f"    ... and {len(shown) - LINES} more lines"] if len(shown) > LINES else []
    return "\n".join(
        [
            f"{name}, cell {difference.cell} ({difference.source[:60]}): stored (-) is not what it shows now (+)",
            *shown[:LINES],
            *more,
        ]
    )


class Executed(NamedTuple):
    """One notebook after its execution."""

    path: Path
    seconds: float
    error: str  # the traceback, empty if no cell failed
    differences: list[Difference]


def execute(path: Path, skip: Sequence[str], root: Path) -> Executed:
    """Execute a notebook in this process, by the rules of nbdev_test, and compare every executed cell.

    Cells with a flag in `skip`, `eval: false` or a call of nbdev_export are left out, and so are notebooks with
    `skip_exec`.
    """
    from execnb.shell import CaptureShell
    from fastcore.xtras import str2bool
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor, nb_lang

    os.environ["IN_TEST"] = "1"
    sys.path.insert(0, str(root))
    start, notebook = time.monotonic(), NBProcessor(path, procs=FrontmatterProc, process=True).nb
    if str2bool(getattr(notebook, "frontmatter_", {}).get("skip_exec", False)) or nb_lang(notebook) != "python":
        return Executed(path, 0.0, "", [])
    os.chdir(path.parent)
    shell, differences = CaptureShell(path), []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or _is_skipped(cell, skip):
            continue
        stored = {"outputs": cell.get("outputs", []), "metadata": cell.metadata, "source": cell.source}
        # After a last ";" execnb drops all that was printed, and Jupyter the value alone: a comment keeps both,
        # and the value goes here.
        quiet = cell.source.rstrip().endswith(";")
        outputs = shell.run(cell.source + ("  #" if quiet else ""))
        outputs = [one for one in outputs if not (quiet and one["output_type"] == "execute_result")]
        if shell.exc:
            shell._cell_idx = index
            return Executed(path, time.monotonic() - start, shell.prettytb(fname=path), differences)
        difference = compare_cell(index, stored, outputs)
        differences += [difference] if difference else []
    return Executed(path, time.monotonic() - start, "", differences)


def _is_skipped(cell: Any, skip: Sequence[str]) -> bool:
    """Whether nbdev_test would not execute this cell."""
    directives = getattr(cell, "directives_", {}) or {}
    hidden = "nbdev_export(" in cell.source or directives.get("eval:", [""])[0].lower() == "false"
    return hidden or bool(set(skip) & set(directives))
