"""The site of this checkout: every link leads somewhere, every page shows its formulas, and a browser has no complaint."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from thesis_surrogates.running.render import SiteError, sources_of
from thesis_surrogates.running.site import add_reports, build_site, check_links

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built by pandoc, and what pandoc complained about."""
    pytest.importorskip("pypandoc")
    pytest.importorskip("nbdev")
    out = tmp_path_factory.mktemp("site") / "out"
    complaints = io.StringIO()
    with contextlib.redirect_stderr(complaints):
        folder = build_site(ROOT, out, quarto=False)
    assert folder == out and (out / "index.html").is_file()
    return out, complaints.getvalue()


def test_every_link_leads_somewhere(site):
    dead = check_links(site[0])
    assert not dead, "\n".join(dead)


def test_no_link_to_a_notebook_or_a_made_up_address(site):
    bad = []
    for page in site[0].rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        bad += [f"{page.name}: {m}" for m in re.findall(r'href="([^"]+\.ipynb[^"]*|[^"]*\.invalid[^"]*)"', text)]
    assert not bad


def test_formulas_are_mathml_without_a_network(site):
    out, complaints = site
    assert "Could not convert TeX" not in complaints, complaints
    pages = [p.read_text(encoding="utf-8") for p in out.rglob("*.html")]
    assert any("<math" in p for p in pages)
    loaded = [m for p in pages for m in re.findall(r'(?:src|href)="(https?:[^"]+\.(?:js|css)[^"]*)"', p)]
    assert not loaded, f"pages must not load from the network: {loaded}"


def test_every_notebook_has_its_page(site):
    notebooks = [
        p
        for p in (ROOT / "nbs").rglob("*.ipynb")
        if "experiments" not in p.parts and ".ipynb_checkpoints" not in p.parts
    ]
    pages = {p.relative_to(site[0]).as_posix() for p in site[0].rglob("*.html")}
    for path in notebooks:
        place = path.relative_to(ROOT / "nbs")
        name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", place.stem.lower()) + ".html"
        assert (place.parent / name).as_posix() in pages


def test_exported_functions_are_documented(site):
    text = (site[0] / "06_running" / "site.html").read_text(encoding="utf-8")
    assert 'id="build_site"' in text and "<details" in text
    assert text.count('aria-current="page"') == 1


def test_everything_that_a_cell_displays_is_on_its_page(site):
    """Several paragraphs and tables in one output, not only the first."""
    for path in sorted((ROOT / "nbs" / "07_results").glob("*.ipynb")):
        outputs = [
            output
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            for output in cell.get("outputs", [])
        ]
        shown = "\n".join("".join(output.get("data", {}).get("text/markdown", "")) + "\n" for output in outputs)
        name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.stem.lower()) + ".html"
        page = (site[0] / "07_results" / name).read_text(encoding="utf-8")
        assert page.count("<table") >= len(re.findall(r"^\|[-|:]+\|$", shown, flags=re.MULTILINE)), path.stem


def test_reports_become_pages(tmp_path):
    """A report below outputs/reports is a page with its tables, without the code in the way."""
    code = {"cell_type": "code", "metadata": {}, "source": "table", "execution_count": 1}
    code["outputs"] = [
        {"output_type": "stream", "name": "stderr", "text": "100%|####|"},
        {
            "output_type": "execute_result",
            "metadata": {},
            "execution_count": 1,
            "data": {"text/html": "<table><tr><td>1</td></tr></table>"},
        },
    ]
    title = {"cell_type": "markdown", "metadata": {}, "source": "# Toy compared\n\n> One line."}
    report = {"cells": [title, code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "reports" / "toy-demo").mkdir(parents=True)
    (tmp_path / "reports" / "toy-demo" / "report.ipynb").write_text(json.dumps(report))
    assert add_reports(tmp_path / "reports", tmp_path / "proc") == 1
    page = json.loads((tmp_path / "proc" / "reports" / "toy-demo.ipynb").read_text())
    assert "title: Toy compared" in page["cells"][0]["source"]
    assert [o["output_type"] for o in page["cells"][-1]["outputs"]] == ["execute_result"]


def test_bad_input_says_what_to_do(tmp_path):
    with pytest.raises(SiteError, match="no checkout"):
        build_site(tmp_path)
    if not shutil.which("quarto"):
        with pytest.raises(SiteError, match="not on PATH"):
            build_site(ROOT, tmp_path / "out", quarto=True)
    assert not (tmp_path / "out").exists()


def test_quarto_gets_the_same_pages(tmp_path, site, monkeypatch):
    """With a program called quarto on PATH it is that program that renders, from the processed notebooks and a sidebar written out in full."""
    script = tmp_path / "bin" / "quarto"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\necho "$@" >called; mkdir -p _docs && echo made by quarto >_docs/index.html && cp _quarto.yml _docs/\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    folder = build_site(ROOT, tmp_path / "out")
    assert (folder / "index.html").read_text() == "made by quarto\n"
    config = yaml.safe_load((tmp_path / "out" / "_quarto.yml").read_text())
    pages = list(sources_of(config["website"]["sidebar"]["contents"]))
    assert pages[0] == "index.ipynb" and "06_running/06_site.ipynb" in pages
    assert config["format"]["html"]["html-math-method"] == "mathml"


def browser() -> str | None:
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no chromium or chrome on PATH")
@pytest.mark.parametrize(
    "page,size", [("index.html", "1400,1400"), ("01_core/data.html", "1400,1400"), ("index.html", "390,800")]
)
def test_a_browser_shows_it_without_complaint(site, tmp_path, page, size):
    shot = tmp_path / "shot.png"
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--window-size={size}",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", (site[0] / page).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    assert shot.is_file() and shot.stat().st_size > 15_000, f"the page is blank; {done.stderr[-500:]}"
