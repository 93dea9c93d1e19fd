"""Configuration: the corners that a lesson would not show."""

import pytest

from thesis_surrogates.core.config import (
    DataConfig,
    TrainConfig,
    check,
    config_diff,
    config_hash,
    merge,
    read_yaml,
    write_canonical,
)
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.suites import expand_suite


def test_the_grid_of_the_orbit_study_has_576_runs():
    grid = {
        "data.train": ["a", "b", "c"],
        "train.length": [[[0, 1]], [[0, 0.1], [0, 1]]],
        "train.segment": [[4], [18], [36]],
        "model.depth": [2, 3],
        "model.activation": ["leaky_relu", "tanh"],
        "model.features": ["x", "y"],
        "model.head": ["a", "b", "c", "d"],
        "train.batch_size": [32],
        "seed": 5,
    }
    runs = expand_suite({"defaults": {"system": "toy", "seed": 1, "train": {"batch_size": 64}}, "grid": grid})
    assert len(runs) == 576
    assert len({run["name"] for run in runs}) == 576
    assert {run["train"]["batch_size"] for run in runs} == {32}, "a one-element list must override the default"
    assert {run["seed"] for run in runs} == {5}, "a scalar must override the default"


def test_config_diff_shows_only_the_key_that_differs():
    one = {"system": "toy", "model": {"head": "signed", "width": 64}, "train": {"rates": [1, 2]}}
    assert config_diff([one, merge(one, {"model": {"head": "unit"}})]) == {"model.head": ["signed", "unit"]}
    assert config_diff([one, one]) == {}


@pytest.mark.parametrize(
    "suite, words",
    [
        ({}, "no runs"),
        ({"defaults": {"system": "toy"}}, "no runs"),
        ({"runs": {}, "grid": {}}, "no runs"),
        ({"run": {"a": {}}}, "did you mean 'runs'"),
        ({"grid": {"seed": []}}, "is empty"),
        ({"runs": {"a": {}, "b": "oops"}}, "runs.b"),
    ],
)
def test_a_bad_suite_is_refused_in_words(suite, words):
    with pytest.raises(ConfigError, match=words):
        expand_suite(suite)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        check(TrainConfig, {"epocs": 1, "batch_size": -4, "schedule": {"name": "cosin"}, "amp": "half"}, "train")
    text = str(error.value)
    assert len(text.splitlines()) == 4
    for words in ("did you mean 'epochs'", "train.batch_size", "train.schedule.name", "train.amp"):
        assert words in text


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "expected a mapping"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("a: [1,\n", "not valid YAML"),
        ("a: 1\na: 2\n", "given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_and_never_executed(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_yaml(path)


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "demo.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"did you mean 'demo\.yaml'"):
        read_yaml(tmp_path / "dmeo.yaml")


def test_infinite_numbers_have_no_identity():
    with pytest.raises(ConfigError):
        check(TrainConfig, {"min_delta": float("nan")})
    with pytest.raises(ValueError):
        write_canonical({"x": float("inf")})


def test_the_hash_is_stable_over_time():
    config = {"system": "toy", "model": {"name": "m"}, "data": DataConfig().model_dump(), "train": {}, "seed": 0}
    assert config_hash(config) == config_hash(dict(reversed(list(config.items())))) == "0116970b5c"
