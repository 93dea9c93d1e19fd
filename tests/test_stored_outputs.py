"""The check that stored outputs are what a notebook shows: what counts as a difference, and what does not."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_script(name, suffix=".py"):
    """A module of the folder .ci, which is no package."""
    loader = SourceFileLoader(name, str(ROOT / ".ci" / f"{name}{suffix}"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


stored = load_script("stored")


def cell(*outputs, tags=(), source="show()"):
    return {"source": source, "metadata": {"tags": list(tags)} if tags else {}, "outputs": list(outputs)}


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def value(**data):
    return {"output_type": "execute_result", "data": {f"text/{kind}": text for kind, text in data.items()}}


@pytest.mark.parametrize(
    "old, new",
    [
        ("loss 0.12345678", "loss 0.12345679"),
        ("2.2e-16", "4.4e-16"),
        ("[1.0, -3e-17]", "[1.0000001, 0.0]"),
        ("| a |  1.0 |\n|:--|-----:|", "| a | 1.0 |\n|:----|----:|"),
        ("x      1.5\ny     12.5", "x  1.5\ny 12.5"),
        ("array([1., 2.,\n       3.])", "array([1., 2., 3.])"),
        ("1.2e+05 µs", "120010.0 µs"),
        ("−0.5000", "-0.5"),
    ],
)
def test_the_same(old, new):
    assert stored.same_text(old, new)


@pytest.mark.parametrize(
    "old, new",
    [
        ("160 times", "162 times"),
        ("4,545 parameters", "4,546 parameters"),
        ("1000000", "1000001"),
        ("0.123", "0.124"),
        ("-0.5", "0.5"),
        ("1e-9", "2e-9"),
        ("nan", "0.0"),
        ("is faster with no error", "is faster and has no error"),
        ("['mlp']", "['mlp', 'binned']"),
        ("1.0 2.0", "1.0"),
        ("", "something"),
        ("something", ""),
    ],
)
def test_not_the_same(old, new):
    assert not stored.same_text(old, new)


def test_a_table_is_compared_by_its_text_and_not_by_its_plain_form():
    def table(number, width):
        return (
            f"<style>#T_{width} {{}}</style>"
            f'<table style="width:{width}px"><tr><td id="T_{width}">a &amp; b</td><td>{number}</td></tr></table>'
        )

    old = cell(value(html=table("0.5", 10), plain="a & b ... 0.5"))
    assert stored.compare_cell(0, old, [value(html=table("0.50001", 20), plain="a & b  0.50001")]) is None
    found = stored.compare_cell(3, old, [value(html=table("0.6", 10), plain="a & b ... 0.5")])
    assert found and found.cell == 3 and found.stored == "a & b 0.5" and found.fresh == "a & b 0.6"


def test_of_a_picture_only_its_presence_counts_and_standard_error_and_widgets_count_for_nothing():
    picture = {"output_type": "display_data", "data": {"image/png": "abc", "text/plain": "<Figure size 400x300>"}}
    other = {"output_type": "execute_result", "data": {"image/png": "xyz", "text/plain": "<Figure size 1x1>"}}
    warning = {"output_type": "stream", "name": "stderr", "text": "UserWarning: slow"}
    widget = {
        "output_type": "display_data",
        "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"},
    }
    assert stored.compare_cell(0, cell(picture), [other, warning, widget]) is None
    assert stored.compare_cell(0, cell(picture), []) and stored.compare_cell(0, cell(), [picture])


def test_the_order_of_printing_and_displaying_does_not_matter():
    picture = {"output_type": "display_data", "data": {"image/png": "abc"}}
    assert (
        stored.compare_cell(
            0,
            cell(printed("a\n"), picture, printed("b\n"), value(plain="c")),
            [picture, printed("a\nb\n"), value(plain="c")],
        )
        is None
    )


@pytest.mark.parametrize(
    "old, new",
    [
        ("12 s, 3.4e+05 tracks/s", "9 s, 2.1e+05 tracks/s"),
        ("trained in 950 ms", "trained in 1.2 s"),
        ("torch 2.6.0 True", "torch 2.14 True"),
        ("/a/b/run-1 done", "/tmp/x/run-2 done"),
        ("run 0123abcd45 done", "run ffee998877 done"),
        ("at 2026-11-30 02:37:03", "at 2025-01-02 12:00:00"),
    ],
)
def test_a_cell_that_varies_is_compared_with_its_numbers_blanked(old, new):
    assert stored.compare_cell(0, cell(printed(old)), [printed(new)])
    assert stored.compare_cell(0, cell(printed(old), tags=["varies"]), [printed(new)]) is None
    assert stored.compare_cell(0, cell(printed(old), tags=["varies"]), [printed(new + " failed")])


def test_a_difference_is_told_in_few_lines():
    old = "\n".join(f"row {n}: {n}.5" for n in range(40))
    found = stored.compare_cell(
        7,
        cell(printed(old), source="\ntable"),
        [printed(old.replace("3: 3.5", "3: 3.50001").replace("4: 4.5", "4: 9.5"))],
    )
    lines = stored.describe("01_core/03_config", found).splitlines()
    assert lines[0].startswith("01_core/03_config, cell 7 (table)")
    assert lines[1:3] == ["    -row 4: 4.5", "    +row 4: 9.5"] and not any("3.5" in line for line in lines)
    many = stored.describe(
        "x", stored.compare_cell(0, cell(printed(old)), [printed(old.replace("row", "line"))])
    ).splitlines()
    assert len(many) <= stored.LINES + 2 and many[-1] == f"    ... and {80 - stored.LINES} more lines"


def notebook(*cells):
    made = [{"cell_type": "code", "id": f"a{n}", "execution_count": None, **one} for n, one in enumerate(cells)]
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Title\n\n> One line"}
    return json.dumps(
        {
            "cells": [title, *made],
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}},
        }
    )


def test_a_notebook_is_executed_by_the_rules_of_nbdev_and_compared_cell_by_cell(tmp_path):
    path = tmp_path / "00_a.ipynb"
    path.write_text(
        notebook(
            cell(printed("1\n"), source="print(1); x = 2;"),
            cell(value(plain="2"), source="x"),
            cell(value(plain="3"), source="x"),
            cell(source="x;"),
            cell(value(plain="never"), source="#| slow\n1 / 0"),
            cell(value(plain="never"), source="#| eval: false\n1 / 0"),
            cell(source="import os; os.getcwd()", tags=["varies"]),
            cell(source="from fastcore.test import expect_fail\nwith expect_fail(ZeroDivisionError):\n    1 / 0"),
        )
    )
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import stored; "
        "done = stored.execute(Path(sys.argv[2]), ['slow'], Path.cwd()); "
        "print(done.error, [(d.cell, d.stored) for d in done.differences])"
    )
    done = subprocess.run([sys.executable, "-c", program, ROOT / ".ci", path], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == "[(3, '3'), (7, '')]".split(), done.stdout + done.stderr


def test_make_notebooks_fails_on_what_is_stale_and_says_what_to_do(tmp_path):
    """One good notebook and three faulty ones beside it."""
    faults = {
        "01_stale": cell(value(plain="2"), source="1 + 2"),
        "02_fails": cell(source="1 / 0"),
        "03_dies": cell(source="import os; os._exit(9)"),
    }
    for name, one in {"00_good": cell(value(plain="3"), source="1 + 2"), **faults}.items():
        (tmp_path / f"{name}.ipynb").write_text(notebook(one))

    def check(*names):
        return subprocess.run([sys.executable, ROOT / ".ci" / "notebooks", *names], capture_output=True, text=True)

    assert check(tmp_path / "00_good.ipynb").returncode == 0
    done = check(tmp_path)
    assert done.returncode == 1
    assert (
        "01_stale, cell 1 (1 + 2)" in done.stdout
        and "    -2\n    +3\n" in done.stdout
        and "make notebook NB=" in done.stdout
    )
    assert "ZeroDivisionError" in done.stdout and "03_dies.ipynb: its process ended with code 9" in done.stdout
    assert "2 of 4 notebooks ran, 1 show something else" in done.stdout


@pytest.mark.parametrize("times, code, reported", [(0.9, 0, ""), (1.5, 0, "all together"), (2.5, 1, "over twice")])
def test_only_twice_the_time_budget_fails(monkeypatch, capsys, times, code, reported):
    """A machine that is somewhat slower than the one of the budgets must not fail the tests."""
    load_script("forked")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    notebooks = load_script("notebooks", "")
    monkeypatch.delenv("BUDGET_SCALE", raising=False)
    one = notebooks.Executed(notebooks.NBS / "01_core" / "00_errors.ipynb", 1.0, "", [])
    assert notebooks.report([one], times * notebooks.TOTAL) == code
    assert reported in capsys.readouterr().out
