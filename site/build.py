"""The notebooks and the stored reports of a checkout, built into a folder of linked pages.

usage: python site/build.py [--out FOLDER]     (`make site` and `surrogates site` start it)

1. nbdev processes the notebooks, with `PageProcessor` (`site/pages.py`) at the end of its chain.
2. Reports that lie in `outputs/reports` join as further pages.
3. Every figure gets its description (`site/figures.py`); a figure without one fails the build.
4. The list of pages in `_quarto.yml` is written out in full.
5. Quarto where it is on PATH, and pandoc elsewhere, makes the pages (`site/render.py`).

Nothing is executed: figures and tables are those stored in the notebooks. A script, and no module of the package: the
library needs none of it, and a folder `site` cannot be imported (the standard library's `site` is there first).
"""

from __future__ import annotations

import argparse
import configparser
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

# Found because Python puts the folder of a script on its path.
from figures import describe_by_headings, describe_figures, undescribed
from render import (
    Frame,
    SiteError,
    expand_sidebar,
    read_page,
    render_with_pandoc,
    render_with_quarto,
    sources_of,
)

ROOT = Path(__file__).resolve().parent.parent
# Run in a process of its own, in the root of the checkout. Never `nbdev_docs`: without Quarto it starts an installer.
PROCESS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
refresh_quarto_yml()
proc_nbs(n_workers=2, force=True)
"""


def split_title(text: str) -> tuple[str, str, str] | None:
    """Title, one-line description and the rest of markdown that begins with a heading; None where it does not."""
    match = re.match(r"#\s+(.+)\n*(?:>\s*(.+)(?:\n|$)+)?", text)
    return (match[1].strip(), (match[2] or "").strip(), text[match.end() :]) if match else None


def take_title(cells: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Title and description from the first heading in prose or in a displayed output, which is removed there."""
    for cell in cells:
        found = split_title("".join(cell["source"])) if cell["cell_type"] == "markdown" else None
        if found:
            cell["source"] = found[2]
            return found[:2]
        for output in cell.get("outputs", []):
            found = split_title("".join(output.get("data", {}).get("text/markdown", "")))
            if found:
                output["data"] = {"text/markdown": found[2]}
                return found[:2]
    return None


def report_page(notebook: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The report notebook as a page: its first heading becomes the title, code and the error stream stay out."""
    cells = [copy.deepcopy(c) for c in notebook["cells"] if c["cell_type"] != "raw"]
    title, description = take_title(cells) or (name, "")
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["source"] = "#| echo: false\n" + "".join(cell["source"])
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    describe_by_headings(cells, title)
    front = yaml.safe_dump({"title": title, "description": description, "output-file": f"{name}.html"})
    raw = {"cell_type": "raw", "metadata": {}, "source": f"---\n{front}---\n"}
    return {**notebook, "cells": [raw, *cells]}


def add_reports(reports: Path, proc: Path) -> int:
    """Copy each report notebook below `reports` to `proc/reports`; their number. Reports that are gone disappear."""
    shutil.rmtree(proc / "reports", ignore_errors=True)
    found = sorted(reports.glob("*/report.ipynb"))
    for path in found:
        name = path.parent.name
        page = report_page(json.loads(path.read_text(encoding="utf-8")), name)
        (proc / "reports").mkdir(parents=True, exist_ok=True)
        (proc / "reports" / f"{name}.ipynb").write_text(json.dumps(page), encoding="utf-8")
    return len(found)


class _Anchors(HTMLParser):
    """Collects where a page links to and which places in it can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note `href`, `src`, `id` of one tag."""
        for key, value in attrs:
            if value and (key == "href" and tag != "base" or key == "src"):
                self.links.append(value)
            elif value and key in {"id", "name"}:
                self.places.add(value)


def check_links(out: Path) -> list[str]:
    """Links of the site `out` that lead nowhere, as "page: link"; an empty list for a sound site."""
    parsed: dict[Path, _Anchors] = {}
    for path in sorted(out.rglob("*.html")):
        parsed[path.resolve()] = anchors = _Anchors()
        anchors.feed(path.read_text(encoding="utf-8"))
    dead = []
    for path, anchors in parsed.items():
        for link in anchors.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            goal = goal / "index.html" if goal.is_dir() else goal
            missing_place = parts.fragment and goal in parsed and unquote(parts.fragment) not in parsed[goal].places
            if not goal.is_file() or missing_place:
                dead.append(f"{path.relative_to(out.resolve())}: {link}")
    return dead


def process_notebooks(root: Path) -> Path:
    """Let nbdev process the notebooks of the checkout `root` into `root/_proc`, two at a time; that folder."""
    if not (root / "settings.ini").is_file() or not (root / "nbs").is_dir():
        raise SiteError(
            f"{root} is no checkout of this project (no settings.ini, no nbs/): the site is made from the notebooks"
        )
    env = {**os.environ, "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", PROCESS], cwd=root, env=env, text=True, capture_output=True)
    if done.returncode:
        raise SiteError(f"nbdev could not process the notebooks:\n{done.stderr.strip()[-3000:]}")
    return root / "_proc"


def describe_pages(proc: Path) -> None:
    """Write the description of each figure into the processed notebooks. SiteError names the figures without one."""
    missing = []
    for path in sorted(proc.rglob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if describe_figures(notebook["cells"]):
            path.write_text(json.dumps(notebook), encoding="utf-8")
        missing += [f"{path.relative_to(proc).as_posix()}: {start}" for start in undescribed(notebook["cells"])]
    if missing:
        remedy = 'write what is seen as a sentence below the figure, or "#| fig-alt: ..." into its cell'
        raise SiteError(f"{len(missing)} figures without a description; {remedy}:\n" + "\n".join(missing))


def load_frame(root: Path, proc: Path, out: Path) -> Frame:
    """Read `_quarto.yml`, expand its sidebar, write the expanded copy to `proc` for Quarto, and name all pages."""
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    side = config["website"]["sidebar"]
    side["contents"] = expand_sidebar(side["contents"], proc)
    (proc / "_quarto.yml").unlink(missing_ok=True)
    (proc / "_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini")
    pages = {source: read_page(proc, source) for source in sources_of(side["contents"])}
    version = settings["DEFAULT"].get("version", "")
    return Frame(proc=proc, out=out, assets=root / "site", site=config["website"], version=version, pages=pages)


def build_site(root: Path = ROOT, out: Path | None = None, *, quarto: bool | None = None) -> Path:
    """Build the site of the checkout `root` and return its folder; its first page is `index.html`.

    `out` defaults to `root/_docs` and is replaced. `quarto=None` uses Quarto where it is on PATH. Raises SiteError
    where `root` is no checkout, a tool is missing, or a page cannot be rendered; the old site then stays as far as it
    can.
    """
    root = root.resolve()
    out = out.resolve() if out is not None else root / "_docs"
    program = shutil.which("quarto") if quarto is not False else None
    if quarto and not program:
        raise SiteError("quarto is not on PATH; leave `quarto` out to use pandoc")
    proc = process_notebooks(root)
    add_reports(root / "outputs" / "reports", proc)
    describe_pages(proc)
    frame = load_frame(root, proc, out)
    complaints = render_with_quarto(frame, program) if program else render_with_pandoc(frame)
    for line in complaints:
        print("site:", line, file=sys.stderr)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site of this checkout as the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Build the site of this checkout, from what its notebooks store.")
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder of the built site, which is replaced")
    try:
        folder = build_site(ROOT, parser.parse_args(arguments).out)
    except SiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"site: open {folder / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
