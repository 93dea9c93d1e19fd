"""What a study of flavor says: boxes beside finer boxes, a cell to turn by hand, and the tables of the results page."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from thesis_surrogates.flavor.kinetics import TOO_SLOW, Protocol
from thesis_surrogates.flavor.networks.deployed import nsm1
from thesis_surrogates.flavor.study import page
from thesis_surrogates.flavor.study.explorer import cell_explorer, cell_figure, make_cell, sky_of
from thesis_surrogates.flavor.study.kinetic.convergence import (
    KEY,
    VARIANTS,
    Variant,
    beside_emu,
    growth_table,
    law_table,
    paired_differences,
    run_study,
    seed_scatter,
    summarize_pairs,
)
from thesis_surrogates.running.results import published_folder, suite_runs

FOLDER = published_folder(Path(__file__).parent)
BOXES = page.read_boxes(FOLDER)
RUNS = suite_runs("flavor", "comparison", FOLDER)  # suites that come later change nothing here
TOY = Protocol(points=32, wavelengths=2, directions=5, end=1.5)
PAGE = {  # every cell of the results page that needs runs
    "price": lambda runs, boxes: list(page.price_parts(runs, boxes)),
    "labels": page.labels_markdown,
    "exactness": lambda runs, boxes: page.exactness_markdown(runs),
    "settings": lambda runs, boxes: page.settings_markdown({"goals": runs}),
}


def made_up(run, factor=1.0, **settings):
    """A copy of a published run with other settings and another error."""
    config, events = copy.deepcopy(run.config), copy.deepcopy(run.events)
    for key, value in settings.items():
        part, _, name = key.partition("__")
        config[part][name] = value
    for event in events:
        for row in event.get("rows", []):
            if row.get("kind") == "surrogate" and row.get(page.HEADLINE) is not None:
                row[page.HEADLINE] *= factor
    return replace(run, config=config, events=events)


def test_study_goes_on_where_it_was_interrupted_and_repeats_nothing(tmp_path):
    file, cells = tmp_path / "boxes.csv", {"NSM1": nsm1()[0]}
    variants = {"base": Variant("base", TOY, seeds=2), "longer": Variant("convention", replace(TOY, end=2.0), seeds=1)}
    first = next(run_study(file, cells, variants))  # and the process dies
    kept = file.read_text()
    assert [row["variant"] for row in run_study(file, cells, variants)] == ["base", "longer"]
    assert file.read_text().startswith(kept) and first["seed"] == 0 and list(run_study(file, cells, variants)) == []


def test_differences_are_those_of_one_cell_and_seed_and_boxes_that_were_not_run_are_left_out():
    rows = [
        ("a", "base", 0, 0.5),
        ("a", "base", 1, 0.6),
        ("b", "base", 0, 0.2),
        ("a", "end 4", 0, 0.53),
        ("a", "end 4", 1, 0.61),
    ]
    table = pd.DataFrame(rows, columns=[*KEY, "ne"]).assign(flag=0, seconds=1.0)
    slow = pd.DataFrame([("b", "end 4", 0, 0.9, TOO_SLOW, 1.0)], columns=[*KEY, "ne", "flag", "seconds"])
    pairs = paired_differences(pd.concat([table, slow]))
    np.testing.assert_allclose(sorted(pairs.difference), [0.01, 0.03], atol=1e-12)
    summary = summarize_pairs(pairs).iloc[0]
    assert summary.cells == 1 and summary.kind == "convention" and summary["mean"] == pytest.approx(0.02)
    assert seed_scatter(table) == pytest.approx(0.1 / np.sqrt(2))  # a cell with one seed says nothing


def test_published_boxes_hold_what_was_asked_of_them():
    cells = BOXES.groupby("variant").cell.nunique()
    assert all(cells[name] >= 10 for name, variant in VARIANTS.items() if not variant.square)
    assert (
        not BOXES.duplicated(KEY).any() and (BOXES[BOXES.variant == "base"].groupby("cell").seed.nunique() >= 4).all()
    )
    summary = summarize_pairs(paired_differences(BOXES)).set_index("variant")
    finer = summary.loc[["256 points", "step .25", "step .125", "directions 25", "double precision"]]
    assert finer.cells.min() >= 10 and finer["mean"].abs().max() <= 0.002
    laws = law_table(BOXES[BOXES.variant != "end 16"]).set_index("precision")
    assert laws.loc["double", "norm"] < 1e-10 and laws.loc["single", "norm"] < 1.5e-5
    assert laws["lepton number"].max() < 1e-5 and laws["of the label"].max() < 1e-5
    assert growth_table(BOXES).set_index("variant").loc["step .25", "max"] < 0.02
    emu = beside_emu(BOXES).set_index("variant").loc["base"]
    assert emu.seeds >= 4 and abs(emu["N_e"]) <= 0.007


def test_turned_fluxes_change_the_sky_and_a_cell_without_crossing_keeps_its_neutrinos():
    assert sky_of(make_cell(angle=120))[2].min() < 0 < sky_of(make_cell(angle=120))[2].max()
    figure, table = cell_figure(make_cell(1.0, f_e=0.3, f_ebar=0.3))
    assert isinstance(figure, Figure) and table.N_e.nunique() == 1
    explorer = cell_explorer()
    picture, controls = explorer.children[0], {c.description: c for c in explorer.children[1].children}
    before = bytes(picture.value)
    controls["angle [°]"].value = 90.0
    assert bytes(picture.value) != before and before.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PAGE)
def test_a_suite_that_is_not_published_is_one_line(name):
    for boxes in (BOXES, pd.DataFrame()):
        answer = PAGE[name]([], boxes)
        text = answer[0] if isinstance(answer, list) else answer
        assert "ublished yet" in text and "\n" not in text
    assert page.boxes_markdown(pd.DataFrame()) == page.NOTHING_YET == "*Nothing published yet.*"


@pytest.mark.parametrize("name", PAGE)
def test_labels_are_never_mixed(name):
    other = [made_up(run, 0.3, data__label_method="kinetic_1d") for run in RUNS]
    alone, both = PAGE[name](RUNS, BOXES), PAGE[name]([*RUNS, *other], BOXES)
    if name == "price":
        alone, both = ("\n".join(part for part in parts if isinstance(part, str)) for parts in (alone, both))
        assert "kinetic box" in both and "kinetic box" not in alone
    kept = [line for line in alone.splitlines() if line.startswith(("| closure", "| power-1/2 |", "| model"))]
    assert kept and all(line in both.splitlines() for line in kept) and both.count("kinetic_1d") >= 1


def test_exactness_is_judged_where_it_was_tried_both_ways():
    free = [made_up(run, 0.5, model__lepton_number="off") for run in RUNS if run.config["model"]["name"] == "ymatrix"]
    answer = page.exactness_answer(page.exactness_table([*RUNS, *free]))
    assert "lepton number: 2 times" in answer and "stable cells" not in answer
    assert page.exactness_answer(page.exactness_table(free)) == "No guarantee was tried both ways."
