"""From a notebook to a page: what is documented, where names and notebooks link to, also from folders within
folders.
"""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from site_tools import pages, render

ROOT = Path(__file__).resolve().parent.parent
HILL = '''
def height(
    x: float,  # place along the hill [m]
    width: float = 2.0,  # half width [m]
) -> float:  # above the plain [m]
    """Height of the hill at `x`.

    The shape is a parabola, cut at zero.
    """
    return max(0.0, width**2 - x**2)
'''
PLACES = {
    "score": ["02_tracks/metrics.html#score", "03_orbits/metrics.html#score"],
    "split_by_group": ["01_core/data.html#split_by_group"],
    "Data._open": ["01_core/data.html#data._open"],
    "plan": ["04_flavor/system.html#plan"],
    "PlainNetwork": ["02_tracks/networks/plain.html#plainnetwork", "05_events/networks/plain.html#plainnetwork"],
}


class Attributes(dict):
    """A cell or a notebook as nbdev passes it: keys are attributes too."""

    __setattr__ = dict.__setitem__

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


def cell(source, *directives, kind="code"):
    return Attributes(cell_type=kind, source=source, outputs=[], directives_={d: [] for d in directives})


def test_arguments_have_the_meaning_that_stands_behind_them():
    rows = pages.argument_rows(ast.parse(HILL).body[0], pages.comments_by_line(HILL))
    assert rows == [
        ("x", "float", "", "place along the hill [m]"),
        ("width", "float", "2.0", "half width [m]"),
        ("returns", "float", "", "above the plain [m]"),
    ]
    shown = pages.documentation(HILL)
    assert "### `height` {#height .definition}" in shown
    assert "| `width` | `float` | `2.0` | half width [m] |" in shown and "The shape is a parabola" in shown


def test_a_configuration_shows_its_fields():
    shown = pages.documentation(
        'class HillConfig(ModelConfig):\n    """A hill to be fitted."""\n\n    name: Literal["hill"] = "hill"\n'
        '    width: float = Field(2.0, gt=0, description="half width [m]")\n'
    )
    assert "| `width` | `float` | `2.0` | half width [m] |" in shown


@pytest.mark.parametrize(
    "name, folder, place",
    [
        ("score", "03_orbits", "03_orbits/metrics.html#score"),
        ("score", "05_events", ""),  # two systems have one, and this is neither
        ("plan", "05_events", ""),  # an ordinary word
        ("Data._open", "03_orbits", "01_core/data.html"),  # private: the page is as close as one gets
        ("split_by_group", "03_orbits", "01_core/data.html#split_by_group"),
        ("score", "02_tracks/networks", "02_tracks/metrics.html#score"),  # from a room to the door of its own system
        ("PlainNetwork", "02_tracks", "02_tracks/networks/plain.html#plainnetwork"),  # and back
        ("PlainNetwork", "05_events/trust", "05_events/networks/plain.html#plainnetwork"),  # and to the next room
        ("PlainNetwork", "03_orbits/networks", ""),
    ],
)
def test_a_name_leads_to_the_nearest_page(name, folder, place):
    assert pages.nearest(name, folder, PLACES) == place


@pytest.mark.parametrize(
    "path, up", [("nbs/01_hills/00_hill.ipynb", "../"), ("nbs/01_hills/networks/00_plain.ipynb", "../../")]
)
def test_the_processor_documents_folds_and_links(monkeypatch, path, up):
    monkeypatch.setattr(pages, "documented_names", lambda: ("https://here.invalid/", PLACES))
    title = cell(
        "# A hill\n\n> How high?\n\nSee [`split_by_group`](https://here.invalid/01_core/data.html).", kind="markdown"
    )
    notebook = Attributes(
        path_=path, cells=[title, cell("", "default_exp"), cell("import math", "export"), cell(HILL, "export")]
    )
    processor = pages.PageProcessor(notebook)
    for one in notebook.cells:
        processor(one)
    processor.end()
    assert [c.cell_type for c in notebook.cells] == ["markdown", "markdown", "code", "code", "markdown", "code"]
    assert notebook.cells[1].source == f"See [`split_by_group`]({up}01_core/data.html#split_by_group)."
    assert "source" not in notebook.cells[2], "nbdev drops a cell without source"
    assert '#| code-summary: "Imports"' in notebook.cells[3].source
    assert notebook.cells[5].source.startswith('#| code-fold: true\n#| code-summary: "Source"')


def notebook_file(path, title, *cells):
    """A notebook as nbdev leaves it after processing."""
    front = f"---\ntitle: {title}\noutput-file: {title.lower().replace(' ', '_')}.html\n---\n"
    made = [{"cell_type": kind, "metadata": {}, "source": text} for kind, text in (("raw", front), *cells)]
    for one in made:
        if one["cell_type"] == "code":
            one |= {"outputs": [], "execution_count": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


SIDEBAR = [
    {"text": "Home", "href": "index.ipynb"},
    {
        "section": "Hills",
        "contents": [
            {"auto": "01_hills/*.ipynb"},
            {"section": "Networks", "contents": [{"auto": "01_hills/networks/*.ipynb"}]},
        ],
    },
    {"section": "Lakes", "contents": [{"section": "Shores", "contents": [{"auto": "02_lakes/shores/*.ipynb"}]}]},
]


@pytest.fixture
def proc(tmp_path):
    """Processed notebooks: one at the root, two in a folder, two in a folder within it; the lakes are not there."""
    proc = tmp_path / "_proc"
    link = "[up](../00_hill.ipynb#shape), [beside](01_deep.ipynb), [home](../../index.ipynb)"
    notebook_file(proc / "index.ipynb", "Index", ("markdown", "To [the plain one](01_hills/networks/00_plain.ipynb)."))
    formula = "## Shape\n\n$$h(x) = h_0 e^{-x^2/2}$$ {#eq-hill}\n\nSee @eq-hill and [the valley](01_valley.ipynb)."
    notebook_file(
        proc / "01_hills/00_hill.ipynb", "A hill", ("markdown", formula), ("code", "#| code-fold: true\nheight = 2.0")
    )
    notebook_file(proc / "01_hills/01_valley.ipynb", "A valley", ("markdown", "To [a room](networks/01_deep.ipynb)."))
    notebook_file(proc / "01_hills/networks/00_plain.ipynb", "A plain one", ("markdown", link))
    notebook_file(
        proc / "01_hills/networks/01_deep.ipynb", "A deep one", ("markdown", "[`height`](../a_hill.html#shape)")
    )
    return proc


def test_the_sidebar_holds_sections_within_sections(proc):
    contents = render.expand_sidebar(SIDEBAR, proc)
    assert [entry.get("section") for entry in contents] == [None, "Hills"], "a section without pages disappears"
    order = list(render.sources_of(contents))
    assert order == [
        "index.ipynb",
        *(f"01_hills/{n}.ipynb" for n in ("00_hill", "01_valley", "networks/00_plain", "networks/01_deep")),
    ]
    assert (
        render.sections_of(contents, order[-1]) == ["Hills", "Networks"]
        and render.sections_of(contents, order[0]) == []
    )
    made = {source: render.read_page(proc, source) for source in order}
    menu = render.navigation(contents, made, order[-1], "../../")
    assert (
        menu.count("<details open>") == 2
        and 'href="../../01_hills/networks/a_deep_one.html" aria-current="page"' in menu
    )
    assert "<details open><summary>Networks" not in render.navigation(contents, made, order[1], "../")


def test_a_pattern_over_several_folders_keeps_each_together(proc):
    assert render.expand_sidebar([{"auto": "01_hills/**/*.ipynb"}], proc) == [
        f"01_hills/{n}.ipynb" for n in ("00_hill", "01_valley", "networks/00_plain", "networks/01_deep")
    ]


def test_pages_two_folders_deep_find_everything(proc, tmp_path):
    """Style, navigation, neighbours and links between notebooks, from every depth to every other; formulas without a
    network.
    """
    pytest.importorskip("pypandoc")
    from site_tools import build

    contents = render.expand_sidebar(SIDEBAR, proc)
    made = {source: render.read_page(proc, source) for source in render.sources_of(contents)}
    site = {"title": "hills", "sidebar": {"contents": contents}}
    frame = render.Frame(proc=proc, out=tmp_path / "out", assets=ROOT / "site", site=site, version="0", pages=made)
    assert render.render_with_pandoc(frame) == []
    assert build.check_links(tmp_path / "out") == []
    deep = (tmp_path / "out/01_hills/networks/a_plain_one.html").read_text()
    for href in ("../../style.css", "../a_hill.html#shape", "a_deep_one.html", "../../index.html"):
        assert f'href="{href}"' in deep, href
    assert '<p class="trail">Hills / Networks</p>' in deep and ".ipynb" not in deep.split("<main")[1]
    assert '<a class="previous" href="../../01_hills/a_valley.html">' in deep
    hill = (tmp_path / "out/01_hills/a_hill.html").read_text()
    assert "<math" in hill and '<a href="#eq-hill">Equation 1</a>' in hill and 'class="fold"' in hill


@pytest.mark.parametrize("title", ["Kepler's problem", "Weights < 1 & *more*", "A_b of `c`"])
def test_a_title_is_escaped_once(tmp_path, title):
    """In the heading, in the tab, in the menu and at the foot of the page before."""
    pytest.importorskip("pypandoc")
    for name, text in (("00_first", "First"), ("01_second", title)):
        notebook_file(tmp_path / "_proc" / f"{name}.ipynb", text, ("markdown", "Text."))
        path = tmp_path / "_proc" / f"{name}.ipynb"
        path.write_text(
            path.read_text().replace(f"title: {text}\\n", f"title: {json.dumps(json.dumps(text))[1:-1]}\\n")
        )
    sources = ["00_first.ipynb", "01_second.ipynb"]
    made = {source: render.read_page(tmp_path / "_proc", source) for source in sources}
    assert made[sources[1]].title == title
    site = {"title": "hills", "sidebar": {"contents": sources}}
    frame = render.Frame(
        proc=tmp_path / "_proc", out=tmp_path / "out", assets=ROOT / "site", site=site, version="0", pages=made
    )
    assert render.render_with_pandoc(frame) == []
    second, first = ((tmp_path / "out" / made[source].target).read_text() for source in sources[::-1])
    (heading,) = re.findall('<h1 class="title">(.*?)</h1>', second)
    (tab,) = re.findall("<title>(.*?) – hills</title>", second)
    (menu,) = re.findall('aria-current="page">(.*?)</a>', second)
    (following,) = re.findall("<small>Next</small>(.*?)</a>", first)
    assert [html.unescape(shown) for shown in (heading, tab, menu, following)] == [title] * 4


@pytest.mark.parametrize("start", [".", "nbs", "nbs/01_hills/networks"])
def test_nbdev_finds_the_processor_by_itself(tmp_path, start):
    """`nbdev_docs` and the like read `procs` in a fresh process, in any folder, before anything of ours has run."""
    pytest.importorskip("nbdev")
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    for name in ("01_hills/00_hill", "01_hills/networks/00_plain"):
        path = tmp_path / "nbs" / f"{name}.ipynb"
        notebook_file(path, "Not used", ("markdown", "# A hill\n\n> How high?"), ("code", "#| export" + HILL))
        made = json.loads(path.read_text())
        path.write_text(json.dumps({**made, "cells": made["cells"][1:]}))
    code = "from nbdev.serve import proc_nbs; proc_nbs(n_workers=2, force=True)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / start, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in sorted((tmp_path / "nbs").rglob("*.ipynb")):
        text = (tmp_path / "_proc" / path.relative_to(tmp_path / "nbs")).read_text()
        assert "{#height .definition}" in text and "half width [m]" in text and "code-fold: true" in text
    assert len(list((tmp_path / "_proc").rglob("*.ipynb"))) == 2
