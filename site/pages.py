"""What a reader of the site sees of an exported cell: a heading, the signature, arguments, and the source folded below.

All of it is read from the syntax tree and the comments; nothing is executed. (`nbdev` would import every module, which
takes minutes with large libraries and fails where an annotation cannot be evaluated.) The meaning of an argument stands
in a comment behind it, that of a configuration field in its `Field(description=...)`.

`PageProcessor` is the last of nbdev's processors (`procs` in settings.ini, by way of `thesis_surrogates._site`), so
Quarto and pandoc see the same pages. Not documented: overloads, nested classes, and names that are made at run time.
"""

from __future__ import annotations

import ast
import copy
import html
import inspect
import io
import re
import tokenize
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def comments_by_line(source: str) -> dict[int, str]:
    """Comments at the ends of lines of `source`: line number (from 1) -> text without the hash sign."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def description_of(value: ast.expr | None) -> str:
    """Text of `description=` where `value` is a call like `Field(1.0, description="...")`; else ""."""
    for keyword in value.keywords if isinstance(value, ast.Call) else []:
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""


def default_of(value: ast.expr | None) -> str:
    """Default as it is written; for a call of `Field` its first argument; "" for none."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in {"Field", "field"}:
        inner = [k.value for k in value.keywords if k.arg in {"default", "default_factory"}]
        value = value.args[0] if value.args else (inner[0] if inner else None)
    return "" if value is None else ast.unparse(value)


Row = tuple[str, str, str, str]  # name, type, default, meaning


def argument_rows(function: ast.FunctionDef | ast.AsyncFunctionDef, comments: Mapping[int, str]) -> list[Row]:
    """Rows of a function's argument table, the result last."""
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    padding: list[ast.expr | None] = [None] * (len(positional) - len(a.defaults))
    pairs = [*zip(positional, padding + list(a.defaults), strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    rows = []
    for arg, default in pairs:
        if arg.arg not in {"self", "cls"}:
            kind = ast.unparse(arg.annotation) if arg.annotation else ""
            rows.append((arg.arg, kind, default_of(default), comments.get((default or arg).end_lineno or 0, "")))
    if function.returns is not None:
        rows.append(("returns", ast.unparse(function.returns), "", comments.get(function.returns.end_lineno or 0, "")))
    return rows


def field_rows(cls: ast.ClassDef, comments: Mapping[int, str]) -> list[Row]:
    """Rows of a class's field table: annotated names in its body, as in a dataclass or a configuration."""
    rows = []
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            meaning = description_of(node.value) or comments.get(node.end_lineno or 0, "")
            rows.append((node.target.id, ast.unparse(node.annotation), default_of(node.value), meaning))
    return rows


def table(rows: list[Row], first: str) -> str:
    """Markdown table of `rows`; columns that would be empty are left out."""

    def code(text: str) -> str:
        return f"`{text}`".replace("|", "\\|") if text else ""

    head = [first, "type", "default", "meaning"]
    body = [
        ["**returns**" if r[0] == "returns" else code(r[0]), code(r[1]), code(r[2]), r[3].replace("|", "\\|")]
        for r in rows
    ]
    kept = [i for i in range(len(head)) if any(line[i] for line in body)]
    lines = ["| " + " | ".join(line[i] for i in kept) + " |" for line in [head, *body]]
    lines.insert(1, "|" + "---|" * len(kept))
    return "\n".join(lines) + "\n\n" if rows else ""


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef, width: int = 92) -> str:
    """First line of a definition, one argument a line where it would be longer than `width` characters."""
    bare = copy.deepcopy(function)
    bare.body, bare.decorator_list = [ast.Expr(ast.Constant(...))], []
    line = ast.unparse(bare).split("\n")[0].rstrip(":")
    if len(line) <= width:
        return line
    head, tail = line.split("(", 1)
    arguments, result = (
        tail.rsplit(")", 1) if "->" not in tail else (tail.rsplit(") ->", 1)[0], " ->" + tail.rsplit(") ->", 1)[1])
    )
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(arguments[start:i].strip())
            start = i + 1
    return f"{head}(\n" + "".join(f"    {part},\n" for part in [*parts, arguments[start:].strip()]) + f"){result}"


def prose(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """Docstring as markdown: its first paragraph as text, the rest with the line breaks of its author."""
    first, _, rest = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n\n")
    if not rest.strip():
        return first.replace("\n", " ") + "\n\n"
    shown = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(rest.strip(), quote=False))
    shown = re.sub(r"\n{2,}", "\n<br>", shown)
    return first.replace("\n", " ") + f'\n\n```{{=html}}\n<div class="docstring">{shown}</div>\n```\n\n'


def method_list(cls: ast.ClassDef) -> str:
    """Markdown list of a class's public methods, each a place that can be linked to."""
    lines = []
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__"):
            about = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
            shown = (
                node.name
                if is_property
                else f"{node.name}({', '.join(r[0] for r in argument_rows(node, {}) if r[0] != 'returns')})"
            )
            lines.append(f"- [`{shown}`]{{#{cls.name.lower()}.{node.name.lower()}}}" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n\n" if lines else ""


def documentation(source: str) -> str:
    """Markdown that documents every public function and class of one exported cell; "" where there is none."""
    comments, text = comments_by_line(source), ""
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        text += f"### `{node.name}` {{#{node.name.lower()} .definition}}\n\n"
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(b) for b in node.bases)
            text += f"```python\nclass {node.name}{f'({bases})' if bases else ''}\n```\n\n{prose(node)}"
            text += table(field_rows(node, comments), "field") + method_list(node)
        else:
            text += f"```python\n{signature(node)}\n```\n\n{prose(node)}"
            rows = argument_rows(node, comments)
            # Without a meaning the table would repeat the signature.
            text += table(rows, "argument") if any(meaning for *_, meaning in rows) else ""
    return text


def documented_names() -> tuple[str, dict[str, list[str]]]:
    """Address that nbdev puts before its links, and the pages on which each exported name is documented."""
    index: dict[str, Any] = import_module("thesis_surrogates._modidx").d
    places: dict[str, list[str]] = {}
    for symbols in index["syms"].values():
        for full, (place, path) in symbols.items():
            module = path.removesuffix(".py").replace("/", ".")
            places.setdefault(full.removeprefix(module + "."), []).append(place)
    return index["settings"]["doc_host"] + "/", places


def nearest(name: str, folder: str, places: Mapping[str, list[str]]) -> str:
    """Page and place documenting `name`, for a notebook in `folder`; "" where a link would be a guess.

    The own folder comes first, then the folders around it. From elsewhere a name must be documented once, and must not
    be an ordinary word: `plan` in a text need not mean the function `plan` of some system.
    """
    found = places.get(name, [])
    here: list[str] = []
    while folder and not here:
        here = [place for place in found if place.startswith(folder + "/")]
        folder = folder.rpartition("/")[0]
    is_word = name.isalpha() and name.islower()
    if not here and (len(found) != 1 or is_word):
        return ""
    page, _, fragment = (here or found)[0].partition("#")
    # Private names are not documented: the page is as close as one gets.
    private = any(part.startswith("_") and part != "__call__" for part in fragment.split("."))
    return page if private or not fragment else f"{page}#{fragment}"


class PageProcessor:
    """Last of nbdev's processors: documents exported cells, folds their source, makes links relative."""

    def __init__(self, nb: Any) -> None:
        parts = Path(str(getattr(nb, "path_", "page.ipynb"))).parts
        inside = parts[len(parts) - parts[::-1].index("nbs") :] if "nbs" in parts else parts[-1:]
        self.nb = nb
        self.keep_prose_below_title()
        self.folder = "/".join(inside[:-1])
        self.up = "../" * (len(inside) - 1)
        self.host, self.places = documented_names()
        self.documented: dict[int, str] = {}  # id of a cell object -> its documentation

    def keep_prose_below_title(self) -> None:
        """Give the prose that shares the title's cell a cell of its own: nbdev drops the title's whole cell."""
        first = self.nb.cells[0] if self.nb.cells else None
        title = (
            re.match(r"# [^\n]*\n+> [^\n]*\n+(?=\S)", first.source) if first and first.cell_type == "markdown" else None
        )
        if first and title:
            rest = copy.deepcopy(first)
            rest["source"] = first.source[title.end() :]
            first["source"] = title[0]
            self.nb.cells.insert(1, rest)

    def relink(self, text: str) -> str:
        """`text` with nbdev's absolute links to our own pages made relative."""
        link = r"\[`([^`]+)`\]\(" + re.escape(self.host) + r"([^)]*)\)"

        def relative(match: re.Match[str]) -> str:
            place = nearest(match[1].removesuffix("()"), self.folder, self.places)
            return f"[`{match[1]}`]({self.up}{place})" if place else f"`{match[1]}`"

        return re.sub(link, relative, text)

    def __call__(self, cell: Any) -> None:
        """Change one cell in place (nbdev drops a cell without source)."""
        directives = getattr(cell, "directives_", None) or {}
        if cell.cell_type == "markdown" and cell.source:
            cell.source = self.relink(cell.source)
        elif cell.cell_type == "code" and directives.keys() & {"hide", "default_exp"}:
            del cell["source"]
        elif cell.cell_type == "code" and directives.keys() & {"export", "exporti", "exports"}:
            self.documented[id(cell)] = documentation(cell.source) if "exporti" not in directives else ""
            body = [n for n in ast.parse(cell.source).body if not isinstance(n, (ast.Import, ast.ImportFrom))]
            cell.source = f'#| code-fold: true\n#| code-summary: "{"Source" if body else "Imports"}"\n{cell.source}'

    def end(self) -> None:
        """Put the documentation of each exported cell before its source."""
        cells = []
        for cell in self.nb.cells:
            if self.documented.get(id(cell)):
                text = copy.deepcopy(cell)
                text["cell_type"], text["source"] = "markdown", self.documented[id(cell)]
                for key in ("outputs", "execution_count"):
                    text.pop(key, None)
                cells.append(text)
            cells.append(cell)
        self.nb.cells = cells
