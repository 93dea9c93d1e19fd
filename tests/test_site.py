"""The site of this checkout: every link leads somewhere, every page shows its formulas, and a browser has no
complaint.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from site_tools import build, figures, render

from thesis_surrogates import _site
from thesis_surrogates.cli import main

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
        folder = build.build_site(ROOT, out, quarto=False)
    assert folder == out and (out / "index.html").is_file()
    return out, complaints.getvalue()


def test_every_link_leads_somewhere(site):
    dead = build.check_links(site[0])
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
    text = (site[0] / "06_running" / "execution.html").read_text(encoding="utf-8")
    assert 'id="run_directory"' in text and "<details" in text
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


def test_every_picture_says_in_words_what_is_seen(site):
    """Those who do not see a picture hear its `alt`."""
    silent = []
    for page in site[0].rglob("*.html"):
        for picture in re.findall(r"<img [^>]*>", page.read_text(encoding="utf-8")):
            words = re.search(r'alt="([^"]*)"', picture)
            if not words or len(words[1].split()) < 3:
                silent.append(f"{page.relative_to(site[0])}: {picture[:120]}")
    assert not silent, "\n".join(silent)


def figure_cell(source):
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}
    return {"cell_type": "code", "metadata": {}, "source": source, "execution_count": 1, "outputs": [picture]}


def prose_cell(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


@pytest.mark.parametrize(
    "below, words",
    [
        (
            "Both *curves* fall with [the step](a.ipynb) to $10^{-3}$ at 0.5 mm. More.",
            "Both curves fall with the step to",
        ),
        ("It falls. The fourth power of the step is what makes it fall so steeply.", "It falls. The fourth power"),
        ("## The next section\n\nText.", ""),
        ("| a | b |\n|---|---|", ""),
        ("**Not covered:** all else.", ""),
    ],
)
def test_a_figure_is_described_by_the_prose_below_it(below, words):
    check = {**figure_cell("assert True"), "outputs": []}
    cells = [figure_cell("draw()"), check, prose_cell(below)]
    assert figures.describe_figures(cells) == bool(words)
    assert bool(figures.undescribed(cells)) != bool(words)
    assert cells[0]["source"].startswith(f'#| fig-alt: "{words}') if words else cells[0]["source"] == "draw()"


def test_a_figure_without_a_description_fails_the_build(tmp_path):
    """The message names page and cell, and what to write; words of the cell itself are kept."""
    own = figure_cell('#| fig-alt: "A wave"\ndraw()')
    notebook = {"cells": [own, figure_cell("#| echo: false\ndraw_silent()")], "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.ipynb").write_text(json.dumps({**notebook, "metadata": {}}))
    with pytest.raises(render.SiteError, match=r"1 figures without(.|\n)*fig-alt(.|\n)*deep/a\.ipynb: draw_silent"):
        build.describe_pages(tmp_path)
    notebook["cells"].append(prose_cell("The wave has two periods, and both are equally high."))
    (tmp_path / "deep" / "a.ipynb").write_text(json.dumps({**notebook, "metadata": {}}))
    build.describe_pages(tmp_path)
    cells = json.loads((tmp_path / "deep" / "a.ipynb").read_text())["cells"]
    assert cells[0] == own and '#| fig-alt: "The wave has two periods' in cells[1]["source"]


def test_figures_of_a_report_are_named_by_their_heading():
    cells = [prose_cell("# Toys\n\n> Which?"), prose_cell("## Loss\n\nText."), figure_cell("draw()")]
    page = build.report_page({"cells": cells}, "toy-demo")
    assert '#| fig-alt: "Loss: Toys"' in page["cells"][-1]["source"] and not figures.undescribed(page["cells"])


def test_paragraphs_of_an_output_stand_apart():
    """The verdicts of the results are paragraphs of one output; without a gap they read as one block."""
    style = (ROOT / "site" / "style.css").read_text(encoding="utf-8")
    gap = re.search(r"\.output p \+ p\s*\{\s*margin-top:\s*([\d.]+)rem", style)
    assert gap and float(gap[1]) >= 0.5


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
    assert build.add_reports(tmp_path / "reports", tmp_path / "proc") == 1
    page = json.loads((tmp_path / "proc" / "reports" / "toy-demo.ipynb").read_text())
    assert "title: Toy compared" in page["cells"][0]["source"]
    assert render.read_page(tmp_path / "proc", "reports/toy-demo.ipynb").description == "One line."
    assert [o["output_type"] for o in page["cells"][-1]["outputs"]] == ["execute_result"]


def test_bad_input_says_what_to_do(tmp_path):
    with pytest.raises(render.SiteError, match="no checkout"):
        build.build_site(tmp_path)
    if not shutil.which("quarto"):
        with pytest.raises(render.SiteError, match="not on PATH"):
            build.build_site(ROOT, tmp_path / "out", quarto=True)
    assert not (tmp_path / "out").exists()


def test_quarto_gets_the_same_pages(tmp_path, site, monkeypatch):
    """With a program called quarto on PATH it is that program that renders, from the processed notebooks and a
    sidebar written out in full.
    """
    script = tmp_path / "bin" / "quarto"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\necho "$@" >called; mkdir -p _docs && '
        "echo made by quarto >_docs/index.html && cp _quarto.yml _docs/\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    folder = build.build_site(ROOT, tmp_path / "out")
    assert (folder / "index.html").read_text() == "made by quarto\n"
    config = yaml.safe_load((tmp_path / "out" / "_quarto.yml").read_text())
    pages = list(render.sources_of(config["website"]["sidebar"]["contents"]))
    assert pages[0] == "index.ipynb" and "06_running/04_execution.ipynb" in pages
    assert config["format"]["html"]["html-math-method"] == "mathml"


def test_links_are_followed_to_pages_places_and_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "index.html").write_text(
        '<a href="../#top">home, named by its folder as Quarto does</a><a href="../deep">here</a>'
    )
    (tmp_path / "bare").mkdir()
    links = (
        '<a href="#top">up</a><a href="lake.html">lake</a><a href="bare">no page</a><a href="deep/#none">no place</a>'
    )
    (tmp_path / "index.html").write_text(f'<p id="top"><a href="index.html#top">here</a>{links}')
    assert build.check_links(tmp_path) == ["index.html: lake.html", "index.html: bare", "index.html: deep/#none"]


def test_the_command_starts_the_script_of_the_checkout(tmp_path, monkeypatch, capfd):
    """With this interpreter, from any folder, options passed on, and its exit code is the command's."""
    (tmp_path / "build.py").write_text(
        "import render, sys; print(render.WORD, sys.executable, *sys.argv[1:], flush=True); sys.exit(3)"
    )
    (tmp_path / "render.py").write_text("WORD = 'found'")
    monkeypatch.setattr(_site, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["site", "--out", "here"])
    assert ended.value.code == 3 and capfd.readouterr().out == f"found {sys.executable} --out here\n"


def test_without_a_checkout_the_command_says_so_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(_site, "FOLDER", tmp_path / "site")
    with pytest.raises(SystemExit) as ended:
        main(["site"])
    shown = capfd.readouterr()
    assert ended.value.code == 2 and shown.out == "" and shown.err.count("\n") == 1
    assert "installed without one" in shown.err and "make site" in shown.err


def test_the_script_builds_this_checkout_and_names_what_is_wrong(tmp_path):
    script = [sys.executable, str(ROOT / "site" / "build.py")]
    assert _site.FOLDER == ROOT / "site"
    answer = subprocess.run([*script, "--uot", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2 and "--uot" in answer.stderr
    for name in ("build.py", "figures.py", "render.py", "pages.py"):
        (tmp_path / "site").mkdir(exist_ok=True)
        shutil.copy(ROOT / "site" / name, tmp_path / "site" / name)
    answer = subprocess.run([sys.executable, "site/build.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (
        answer.returncode == 2 and "no checkout of this project" in answer.stderr and "Traceback" not in answer.stderr
    )


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
