"""Pages from processed notebooks: by Quarto where it is installed, by pandoc with our own navigation elsewhere.

Both read one description, `_quarto.yml`. A page's *source* is its notebook below `proc`, the processed notebooks
(`02_tracks/networks/01_plain.ipynb`); its *target* is the page below `out` (`02_tracks/networks/plain.html`): without
the number, so that links survive when notebooks change places. Pages made with pandoc have no search, and no listings
or tab sets of Quarto.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


class SiteError(RuntimeError):
    """The site cannot be built; the message says what is missing and how to get it."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the site: where it comes from, where it goes, and how it is called."""

    source: str  # notebook, relative to the processed notebooks
    target: str  # html file, relative to the site
    title: str
    description: str = ""


def front_matter(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Front matter of a notebook: what its first raw cell says between two lines of dashes; {} without such a cell."""
    for cell in notebook["cells"][:1]:
        match = re.match(r"---\n(.*?)\n---", "".join(cell["source"]), re.DOTALL)
        if cell["cell_type"] == "raw" and match:
            return dict(yaml.safe_load(match[1]) or {})
    return {}


def read_page(proc: Path, source: str) -> Page:
    """Page of the notebook `source` below `proc`."""
    front = front_matter(json.loads((proc / source).read_text(encoding="utf-8")))
    name = front.get("output-file") or Path(source).with_suffix(".html").name
    title = str(front.get("title") or Path(source).stem)
    target = (PurePosixPath(source).parent / name).as_posix()
    return Page(source=source, target=target, title=title, description=str(front.get("description") or ""))


def expand_sidebar(contents: Sequence[Any], proc: Path) -> list[Any]:
    """The sidebar with each pattern replaced by the files below `proc` that match it, and empty sections dropped."""
    done: list[Any] = []
    for entry in contents:
        if isinstance(entry, Mapping) and "auto" in entry:
            found = sorted(proc.glob(entry["auto"]), key=lambda p: (p.parent.as_posix(), p.stem != "index", p.name))
            done += [p.relative_to(proc).as_posix() for p in found]
        elif isinstance(entry, Mapping) and "section" in entry:
            inner = expand_sidebar(entry.get("contents", []), proc)
            done += [{**entry, "contents": inner}] if inner else []
        else:
            done.append(entry)
    return done


def sources_of(contents: Sequence[Any]) -> Iterator[str]:
    """Notebooks of an expanded sidebar, in reading order."""
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        elif "contents" in entry:
            yield from sources_of(entry["contents"])
        elif entry.get("href"):
            yield str(entry["href"])


def sections_of(contents: Sequence[Any], source: str) -> list[str]:
    """Names of the sections that hold the notebook `source`, the outermost first; [] for one in no section."""
    for entry in contents:
        inner = entry.get("contents", []) if isinstance(entry, Mapping) else []
        if source in sources_of(inner):
            return [str(entry["section"]), *sections_of(inner, source)]
    return []


def navigation(contents: Sequence[Any], pages: Mapping[str, Page], current: str, up: str) -> str:
    """HTML list of all pages as seen from the page `current`; `up` leads from there to the site's root ("../")."""
    rows = []
    for entry in contents:
        if isinstance(entry, Mapping) and "contents" in entry:
            is_open = " open" if current in sources_of(entry["contents"]) else ""
            inner = navigation(entry["contents"], pages, current, up)
            rows.append(
                f"<li><details{is_open}><summary>{html.escape(entry['section'])}</summary>{inner}</details></li>"
            )
            continue
        source = entry if isinstance(entry, str) else entry["href"]
        text = pages[source].title if isinstance(entry, str) else entry.get("text", pages[source].title)
        here = ' aria-current="page"' if source == current else ""
        rows.append(f'<li><a href="{up}{pages[source].target}"{here}>{html.escape(text)}</a></li>')
    return "<ul>" + "".join(rows) + "</ul>"


def for_pandoc(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook in the form that pandoc reads: no front matter, counted outputs, `output: asis` as prose."""
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "raw" and source.startswith("---"):
            continue
        outputs = [dict(o) for o in cell.get("outputs", [])]
        prose = ["".join(o["data"]["text/markdown"]) for o in outputs if "text/markdown" in o.get("data", {})]
        if "output: asis" in source and prose:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": "\n\n".join(prose)})
            continue
        for output in outputs:
            if output["output_type"] == "execute_result":
                output["execution_count"] = output.get("execution_count") or 0
            if output["output_type"] != "stream":
                output.setdefault("metadata", {})
        extra: dict[str, Any] = {"outputs": outputs, "execution_count": 0} if cell["cell_type"] == "code" else {}
        cells.append({"cell_type": cell["cell_type"], "metadata": {}, "source": source, **extra})
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


PANDOC_INPUT = (
    "ipynb+auto_identifiers+fenced_divs+bracketed_spans+native_divs+link_attributes"
    "+inline_code_attributes+header_attributes+citations+footnotes+tex_math_dollars+pipe_tables"
    "+implicit_figures+definition_lists+raw_html+raw_attribute+backtick_code_blocks+fenced_code_attributes+strikeout"
)


def pandoc_path() -> str:
    """The pandoc to use: that of the wheel pypandoc_binary, else one on PATH. SiteError without either."""
    try:
        import pypandoc

        return str(pypandoc.get_pandoc_path())
    except (ImportError, OSError):
        found = shutil.which("pandoc")
    if not found:
        raise SiteError(
            "neither quarto nor pandoc is here: pip install pypandoc_binary (or install thesis_surrogates[dev])"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all pages of one site share."""

    proc: Path
    out: Path
    assets: Path  # page.html, filter.lua, style.css
    site: Mapping[str, Any]  # the `website` part of _quarto.yml, sidebar expanded
    version: str
    pages: Mapping[str, Page]

    @property
    def order(self) -> list[Page]:
        """Pages in reading order."""
        return [self.pages[s] for s in sources_of(self.site["sidebar"]["contents"])]


def page_variables(frame: Frame, page: Page) -> dict[str, str]:
    """The template's variables for one page: navigation, neighbours, and where it stands."""
    up = "../" * page.target.count("/")
    contents, order = frame.site["sidebar"]["contents"], frame.order
    at = order.index(page)

    def turn(other: Page | None, kind: str, word: str) -> str:
        if other is None:
            return ""
        return f'<a class="{kind}" href="{up}{other.target}"><small>{word}</small>{html.escape(other.title)}</a>'

    return {
        "root": up,
        "site": str(frame.site.get("title", "")),
        "motto": html.escape(str(frame.site.get("description", ""))),
        "version": frame.version,
        "pagetitle": page.title,  # metadata, which pandoc escapes by itself
        "description": html.escape(page.description),
        "trail": html.escape(" / ".join(sections_of(contents, page.source))),
        "nav": navigation(contents, frame.pages, page.source, up),
        "previous": turn(order[at - 1] if at else None, "previous", "Previous"),
        "next": turn(order[at + 1] if at + 1 < len(order) else None, "next", "Next"),
    }


def link_targets(frame: Frame, page: Page) -> dict[str, str]:
    """Links to notebooks as they may stand in `page` -> the pages that they mean, both relative to that page."""
    folder, here = str(PurePosixPath(page.source).parent), str(PurePosixPath(page.target).parent)
    return {os.path.relpath(p.source, folder): os.path.relpath(p.target, here) for p in frame.pages.values()}


def render_page(frame: Frame, page: Page, pandoc: str) -> list[str]:
    """Write one page and its figures; what pandoc complained about, one line each. SiteError where pandoc fails."""
    target = frame.out / page.target
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = json.loads((frame.proc / page.source).read_text(encoding="utf-8"))
    settings = target.with_suffix(".defaults.json")
    variables = page_variables(frame, page)
    meta = {"targets": link_targets(frame, page), "pagetitle": variables.pop("pagetitle")}
    settings.write_text(json.dumps({"variables": variables, "metadata": meta}), encoding="utf-8")
    command = [
        pandoc,
        "--defaults",
        settings.name,
        "-f",
        PANDOC_INPUT,
        "-t",
        "html5",
        "-s",
        "--mathml",
        "--toc",
        "--toc-depth=3",
    ]
    command += [
        "--section-divs",
        "--template",
        str(frame.assets / "page.html"),
        "--lua-filter",
        str(frame.assets / "filter.lua"),
    ]
    command += ["--extract-media", target.stem + "_files", "-o", target.name]
    done = subprocess.run(
        command, input=json.dumps(for_pandoc(notebook)), text=True, cwd=target.parent, capture_output=True
    )
    settings.unlink()
    if done.returncode:
        raise SiteError(f"pandoc could not render {page.source}: {done.stderr.strip()}")
    return [f"{page.source}: {line}" for line in done.stderr.splitlines() if line.strip()]


def render_with_pandoc(frame: Frame) -> list[str]:
    """Render every page, several at a time; pandoc's complaints."""
    pandoc = pandoc_path()
    shutil.rmtree(frame.out, ignore_errors=True)
    frame.out.mkdir(parents=True)
    shutil.copy(frame.assets / "style.css", frame.out / "style.css")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = list(pool.map(lambda page: render_page(frame, page, pandoc), frame.pages.values()))
    return [line for lines in complaints for line in lines]


def render_with_quarto(frame: Frame, quarto: str) -> list[str]:
    """Render the processed notebooks with Quarto and move the result to `frame.out`; no complaints, or SiteError."""
    done = subprocess.run([quarto, "render", "--no-cache"], cwd=frame.proc, text=True, capture_output=True)
    if done.returncode:
        raise SiteError(f"quarto failed:\n{done.stderr.strip()[-3000:]}")
    shutil.rmtree(frame.out, ignore_errors=True)
    shutil.move(str(frame.proc / "_docs"), frame.out)
    return []
