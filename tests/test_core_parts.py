"""Parts of a model that are chosen by name: identities that stay, and errors that name the key and the part."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from thesis_surrogates.core.config import (
    DataConfig,
    ModelConfig,
    StrictModel,
    TrainConfig,
    as_mapping,
    check_run,
    config_hash,
    merge,
    unless_default,
)
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import swept_keys
from thesis_surrogates.core.parts import Parts
from thesis_surrogates.core.suites import expand_suite


class Masked(StrictModel):
    name: Literal["masked"] = "masked"


class Pool(StrictModel):
    name: Literal["mean", "max"] = "mean"
    power: int = 1


class Graph(StrictModel):
    name: Literal["gnn"] = "gnn"
    k: int = Field(default=8, ge=1)
    pool: Annotated[Pool | Masked, Parts()] = Pool()


class Signed(StrictModel):
    name: Literal["signed"] = "signed"
    scale: float = Field(default=1.0, exclude_if=unless_default(1.0))


Encoder = Annotated[Masked | Graph, Parts()]


class Older(ModelConfig):
    """As it was: the head is a word, and there is one encoder."""

    name: Literal["toy"] = "toy"
    head: Literal["signed", "masked"] = "signed"

    def build(self, data):
        raise NotImplementedError


class Newer(ModelConfig):
    name: Literal["toy"] = "toy"
    head: Annotated[Signed | Masked, Parts(was_word=True)] = Signed()
    encoder: Encoder = Field(default=Masked(), exclude_if=unless_default(Masked()))
    second: Encoder | None = Field(default=None, exclude_if=unless_default(None))
    blocks: list[Encoder] = Field(default=[], exclude_if=unless_default([]))
    plain: Masked | Graph = Field(default=Masked(), exclude_if=unless_default(Masked()))

    def build(self, data):
        raise NotImplementedError


def run_of(model, kind=Newer):
    return check_run({"system": "toy", "model": model}, {"toy": kind}, DataConfig, TrainConfig)


@pytest.mark.parametrize("model", ["toy", {"name": "toy", "head": "masked"}])
def test_older_configurations_load_and_keep_their_hash(model):
    before = run_of(model, Older)
    now = run_of(as_mapping(before)["model"])
    assert as_mapping(now) == as_mapping(before) and config_hash(now) == config_hash(before)


def test_a_name_and_a_mapping_are_the_same_part():
    short, long = run_of({"name": "toy", "encoder": "gnn"}), run_of({"name": "toy", "encoder": {"name": "gnn", "k": 8}})
    assert config_hash(short) == config_hash(long) != config_hash(run_of("toy"))
    written = as_mapping(short)
    assert written["model"]["encoder"] == {"name": "gnn", "k": 8, "pool": {"name": "mean", "power": 1}}, (
        "every default is written out"
    )
    assert run_of(written["model"]) == short
    scaled = as_mapping(run_of({"name": "toy", "head": {"name": "signed", "scale": 2}}))["model"]["head"]
    assert scaled == {"name": "signed", "scale": 2.0}, "a word that has got a key is a mapping"


@pytest.mark.parametrize(
    "model, line",
    [
        ({"encoder": {"name": "gnn", "kk": 3}}, "model.encoder.kk: unknown key of 'gnn'; did you mean 'k'?"),
        ({"encoder": {"name": "masked", "k": 3}}, "model.encoder.k: unknown key of 'masked'; it is one of 'gnn'"),
        ({"encoder": "gmn"}, "model.encoder.name: no part 'gmn'; did you mean 'gnn'?"),
        ({"encoder": {"k": 3}}, "model.encoder.name: missing; valid: gnn, masked"),
        ({"encoder": 3}, "model.encoder: expected a name or a mapping with one; valid: gnn, masked; got 3"),
        ({"encoder": None}, "model.encoder: expected a name or a mapping with one; valid: gnn, masked; got None"),
        (
            {"encoder": {"name": "gnn", "k": 0}},
            "model.encoder.k of 'gnn': input should be greater than or equal to 1; got 0",
        ),
        (
            {"second": {"name": "gnn", "pool": {"name": "max", "pow": 2}}},
            "model.second.pool.pow: unknown key of 'max'; did you mean 'power'?",
        ),
        (
            {"second": {"name": "gnn", "pool": "min"}},
            "model.second.pool.name: no part 'min'; did you mean 'mean'?",
        ),
        ({"blocks": ["gnn", {"name": "gnn", "q": 1}]}, "model.blocks.1.q: unknown key of 'gnn'; valid: k, name, pool"),
        ({"blocks": ["gnn", "made"]}, "model.blocks.1.name: no part 'made'; did you mean 'masked'?"),
        ({"plain": {"name": "gnn", "kk": 1}}, "model.plain.kk: unknown key of 'Graph'; did you mean 'k'?"),
    ],
)
def test_an_error_inside_a_part_names_the_nearest_key_and_the_part(model, line):
    with pytest.raises(ConfigError) as error:
        run_of({"name": "toy", **model})
    assert line in str(error.value).splitlines()


def test_a_setting_of_a_part_that_was_only_named_keeps_the_name():
    assert merge({"model": {"encoder": "gnn"}}, {"model": {"encoder": {"k": 4}}}) == {
        "model": {"encoder": {"name": "gnn", "k": 4}}
    }
    one, other = {"model": {"encoder": {"name": "gnn", "k": 4}}}, {"model": {"encoder": "masked"}}
    assert merge(one, other) == other and merge(other, one) == one, "another part brings its own keys"
    assert merge({"data": {"path": "a.h5"}}, {"data": {"path": {"train": "b.h5"}}})["data"]["path"] == {"train": "b.h5"}
    suite = {
        "defaults": {"system": "toy", "model": {"name": "toy", "encoder": "gnn"}},
        "grid": {"model.encoder.k": [4, 8], "model.encoder.pool": ["mean", "max"]},
    }
    runs = [run_of(run["model"]) for run in expand_suite(suite)]
    assert [(run.model.encoder.k, run.model.encoder.pool.name) for run in runs] == [
        (4, "mean"),
        (4, "max"),
        (8, "mean"),
        (8, "max"),
    ]
    assert swept_keys([as_mapping(run) for run in runs]) == ["model.encoder.k", "model.encoder.pool.name"]
