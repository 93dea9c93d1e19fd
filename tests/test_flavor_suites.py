"""The suites of flavor: each loads, asks one question, gates by the crossing test, is fair to the schemes."""

from __future__ import annotations

import pytest

from thesis_surrogates.core.config import read_yaml
from thesis_surrogates.flavor.models import CorrectionConfig, SurvivalConfig
from thesis_surrogates.running.registry import list_suites, load_suite

OLDER = {"flavor/comparison", "flavor/demo", "flavor/smoke"}  # their runs keep their identity, and with it their gate
SUITES = sorted(set(list_suites("flavor")) - OLDER)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_asks_one_question_and_draws_data_with_its_seeds(suite):
    values = read_yaml(list_suites("flavor")[suite])
    assert values["question"].count("?") == 1 and "\n" not in values["question"]
    assert values["title"].startswith("Flavor: ")
    assert values["seeds"] == {"model": [0, 1, 2], "data": "same"}
    assert {run.data.seed for run in load_suite(suite)} == {0, 1, 2}


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_has_to_be_remarked_of_a_suite(suite):
    for run in load_suite(suite):
        assert run.model.gate == "analytic" and run.model.remarks() == []


@pytest.mark.parametrize("suite", SUITES)
def test_no_network_starts_from_the_scheme_that_made_its_labels(suite):
    for run in load_suite(suite):
        scheme = run.model.residual_on if isinstance(run.model, CorrectionConfig) else "box3d"
        if isinstance(run.model, SurvivalConfig) and run.model.starts_from != "box3d":
            scheme = run.model.starts_from  # Box3D is where all of them start, and only nearly so
        made = {"power-1/2": "power_half", "box3d": "a correction of box3d"}.get(run.data.label_method, "boxes")
        assert made not in (scheme, f"a correction of {getattr(run.model, 'residual_on', '')}"), run.name


def test_the_boxes_of_all_suites_are_one_dataset_a_seed():
    boxes = [run.data for name in SUITES for run in load_suite(name) if run.data.label_method == "kinetic_1d"]
    assert len({data.file_name("flavor") for data in boxes}) == 3
