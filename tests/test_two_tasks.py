"""Two tasks on one dataset: an autoencoder and a classifier are two records, and nothing in the core knows of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from thesis_surrogates.core.comparison import Contender, Scores
from thesis_surrogates.core.config import DataConfig, ModelConfig, TrainConfig, config_hash
from thesis_surrogates.core.data import Data, TensorSource, numpy_rng
from thesis_surrogates.core.export.deployable import Deployable
from thesis_surrogates.core.files import file_fingerprint
from thesis_surrogates.core.hdf5 import read_hdf5, write_hdf5
from thesis_surrogates.core.plan import mean_loss, supervised_plan
from thesis_surrogates.core.publishing import publish, read_published
from thesis_surrogates.core.system import System
from thesis_surrogates.core.verdict import Terms
from thesis_surrogates.running.datasets import ensure_dataset, files_of_dataset
from thesis_surrogates.running.execution import load_surrogate, run
from thesis_surrogates.running.registry import SYSTEMS, resolve
from thesis_surrogates.running.reports import compare_runs

ROWS = 60
MADE: list[str] = []


class PointsData(DataConfig):
    """Two clouds of points; both tasks read one file."""

    owner = "points"
    width: float = 0.3


class Squeeze(ModelConfig):
    name: Literal["linear"] = "linear"

    def build(self, data):
        return nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))


class Tag(ModelConfig):
    name: Literal["logistic"] = "logistic"

    def build(self, data):
        return nn.Linear(2, 1)


def make_data(config, path, workers):
    MADE.append(path.name)
    rng = numpy_rng(config.seed, "points")
    label = rng.integers(0, 2, ROWS)
    write_hdf5(path, {"x": label[:, None] + config.width * rng.normal(size=(ROWS, 2)), "label": label})


def load_data(config, path):
    arrays, _ = read_hdf5(path)
    x, label = torch.from_numpy(arrays["x"]).float(), torch.from_numpy(arrays["label"]).float()
    rows = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, ROWS)}
    splits = {name: {"x": x[part], "label": label[part]} for name, part in rows.items()}
    return Data(splits=splits, fingerprint=file_fingerprint(path), meta={})


def record(name, models, loss, wanted, score, idle):
    """What both tasks share, and the few fields in which they differ."""

    def plan(model, data, config, train, seed):
        source = TensorSource(data.splits["train"], train.batch_size, seed)
        validate = mean_loss(loss, data.splits["validation"])
        return supervised_plan(loss_terms=loss, source=source, validate=validate, train=train)

    def surrogate(model, data):
        return Contender(name="network", kind="surrogate", predict=lambda split: {wanted: model(split["x"])})

    return System(
        name=name,
        title=name,
        item="point",
        question="",
        symbols=(),
        data_config=PointsData,
        train_config=TrainConfig,
        models=models,
        make_data=make_data,
        load_data=load_data,
        plan=plan,
        surrogate=surrogate,
        baselines=lambda data: (Contender(name="nothing", kind="nothing", predict=idle),),
        score=score,
        figures=lambda scores, data: iter(()),
        deploy=lambda model: Deployable(module=model, inputs={"x": torch.zeros(2, 2)}, outputs=(wanted,)),
        terms=Terms(headline=f"{wanted}_error", columns=(f"{wanted}_error",)),
    )


AUTOENCODER = record(
    "points",
    {"linear": Squeeze},
    lambda model, batch: {"loss": nn.functional.mse_loss(model(batch["x"]), batch["x"])},
    "point",
    lambda found, split: Scores(metrics={"point_error": float((found["point"] - split["x"]).abs().mean())}),
    lambda split: {"point": torch.zeros_like(split["x"])},
)
CLASSIFIER = record(
    "points_tags",
    {"logistic": Tag},
    lambda model, batch: {
        "loss": nn.functional.binary_cross_entropy_with_logits(model(batch["x"])[:, 0], batch["label"])
    },
    "tag",
    lambda found, split: Scores(
        metrics={"tag_error": float(((found["tag"][:, 0] > 0) != (split["label"] > 0.5)).float().mean())}
    ),
    lambda split: {"tag": torch.zeros(len(split["x"]), 1)},
)


@pytest.fixture
def tasks(monkeypatch):
    MADE.clear()
    for system in (AUTOENCODER, CLASSIFIER):
        monkeypatch.setitem(SYSTEMS, system.name, system)
    train = {"epochs": 1, "batch_size": 20}
    return [
        resolve({"system": name, "model": model, "train": train})
        for name, model in (("points", "linear"), ("points_tags", "logistic"))
    ]


def test_both_tasks_read_one_file_and_it_is_made_once(tasks, tmp_path):
    files = {files_of_dataset(config.system, config.data, tmp_path) for config in tasks}
    made = [ensure_dataset(SYSTEMS[config.system], config.data, tmp_path) for config in tasks]
    assert len(files) == len(set(made)) == len(MADE) == 1 and made[0].parent == tmp_path / "points"


def test_each_task_has_its_own_runs_comparison_and_published_facts(tasks, tmp_path):
    runs = [run(config, tmp_path / "runs", data_dir=tmp_path / "data", progress=False) for config in tasks]
    assert len({config_hash(config) for config in tasks}) == 2 and len(MADE) == 1
    assert [one.path.parent.name for one in runs] == ["points", "points_tags"]
    assert runs[0].provenance["data_fingerprint"] == runs[1].provenance["data_fingerprint"]
    compared = list(compare_runs([tmp_path / "runs"]))
    assert [one.terms.headline for one in compared] == ["point_error", "tag_error"]
    assert all(list(one.table.kind) == ["nothing", "surrogate"] for one in compared)
    publish([one.path for one in runs], tmp_path / "published")
    names = ("points", "points_tags")
    assert [len(read_published(tmp_path / "published" / name)[0]) for name in names] == [1, 1]
    answers = [load_surrogate(one.path).predict(np.zeros((3, 2), np.float32)).shape for one in runs]
    assert answers == [(3, 2), (3, 1)]
