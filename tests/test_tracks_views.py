"""The files that users of tracks expect in a run directory: derived from facts, the same bytes again, nothing
half-written.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.files import replace_text
from thesis_surrogates.running import execution
from thesis_surrogates.running.datasets import dataset_path
from thesis_surrogates.running.registry import get_system, resolve
from thesis_surrogates.tracks.data import TracksData
from thesis_surrogates.tracks.exchange.older_files import (
    model_config,
    older_config,
    read_model,
    views,
    write_normalization,
)
from thesis_surrogates.tracks.models import MODELS

VIEWED = {
    "system": "tracks",
    "model": {"name": "rk_pinn", "hidden": [8, 8]},
    "data": {"n_tracks": 400},
    "train": {"epochs": 4, "batch_size": 64, "keep_every": 2, "physics_warmup_epochs": 2},
}


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    """A trained run whose system writes views."""
    folder, system = tmp_path_factory.mktemp("views"), replace(get_system("tracks"), views=views)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "get_system", lambda name: system)
        yield execution.run(VIEWED, out=folder / "runs", data_dir=folder / "data").path


NAMES = [
    "history.json",
    "config.json",
    "normalization.json",
    "model_config.json",
    "best_model.pt",
    "checkpoint_epoch_2.pt",
    "checkpoint_epoch_4.pt",
]


def test_a_run_ends_with_its_views_and_the_bytes_come_back(viewed):
    assert all((viewed / name).is_file() for name in NAMES)
    before = {name: (viewed / name).read_bytes() for name in NAMES}
    for name in NAMES:
        (viewed / name).unlink()
    assert [path.name for path in execution.write_views(viewed)] == NAMES
    assert {name: (viewed / name).read_bytes() for name in NAMES} == before
    assert not [path for path in viewed.iterdir() if "partial" in path.name]


def test_the_history_has_the_keys_and_the_numbers_of_the_facts(viewed):
    history, facts = json.loads((viewed / "history.json").read_text()), read_run(viewed)
    assert set(history) == {"train", "val", "test_final", "best_epoch", "best_val_loss", "training_time"}
    assert set(history["train"][0]) == {
        "epoch",
        "loss",
        "data_loss",
        "physics_loss",
        "ic_loss",
        "pde_loss",
        "stage_losses",
        "lr",
        "skipped_batches",
        "physics_scale",
    }
    assert set(history["val"][0]) == {
        "epoch",
        "loss",
        "pos_mean_mm",
        "pos_std_mm",
        "pos_95_mm",
        "slope_mean",
        "x_mean_mm",
        "y_mean_mm",
        "tx_mean",
        "ty_mean",
    }
    assert [row["loss"] for row in history["val"]] == facts.curve("validation", "loss").tolist()
    assert [row["epoch"] for row in history["train"]] == [1, 2, 3, 4] and [
        row["physics_scale"] for row in history["train"]
    ] == [0.5, 1, 1, 1]
    assert (
        history["best_val_loss"]
        == min(row["loss"] for row in history["val"])
        == history["val"][history["best_epoch"] - 1]["loss"]
    )
    assert len(history["train"][0]["stage_losses"]) == 4 and history["train"][0]["pde_loss"] > 0
    assert history["test_final"]["pos_mean_mm"] > 0 and history["test_final"]["pos_std_mm"] > 0
    assert "loss" not in history["test_final"]  # not among the facts of an evaluation


def test_facts_from_before_the_spread_was_scored_still_have_a_history(viewed):
    facts = read_run(viewed)
    events = [
        {**event, "rows": [{k: v for k, v in row.items() if k != "position_std_mm"} for row in event["rows"]]}
        if event["moment"] == "evaluated"
        else event
        for event in facts.events
    ]
    old = json.loads(dict(views(replace(facts, events=events)))["history.json"])
    assert old["test_final"]["pos_std_mm"] is None and old["test_final"]["pos_mean_mm"] > 0


def test_the_checkpoints_are_the_networks_of_their_epochs(viewed):
    model, best = read_model(viewed / "best_model.pt")
    assert set(best) == {"epoch", "model_state_dict", "optimizer_state_dict", "val_loss", "config"}
    _, _, trained = execution.trained_model(viewed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    for epoch in (2, 4):
        _, kept = read_model(viewed / f"checkpoint_epoch_{epoch}.pt")
        assert kept["epoch"] == epoch == len(kept["history"]["train"]) and kept["optimizer_state_dict"]["state"]
    described = json.loads((viewed / "model_config.json").read_text())
    assert (
        described["parameters"] == sum(p.numel() for p in model.parameters())
        and abs(sum(described["stage_weights"]) - 1) < 1e-6
    )
    assert (
        json.loads((viewed / "normalization.json").read_text())["output_mean"]
        == trained.normalize_outputs.mean.tolist()
    )


def test_generated_data_has_a_path(viewed):
    config = resolve(VIEWED)
    assert json.loads((viewed / "config.json").read_text())["data_path"] == dataset_path("tracks", config.data, "").name


@pytest.mark.parametrize("name", ["residual", "quadratic", "gauss_legendre", "chained", "kick", "binned", "polynomial"])
def test_moments_of_outputs_are_those_of_the_frame(viewed, name):
    facts, data = read_run(viewed), TracksData(n_tracks=400)
    facts = replace(facts, config={**facts.config, "model": {"name": name}})
    weights = MODELS[name]().build(data).state_dict()
    weights |= {key: torch.arange(4.0) for key in weights if key in ("frame.normalize.mean", "normalize_outputs.mean")}
    stated = write_normalization(facts, weights)
    assert (
        stated["output_mean"] == (None if name == "polynomial" else [0.0, 1.0, 2.0, 3.0])
        and stated["input_mean"] is not None
    )
    assert (stated["output_std"] is None) == (name == "polynomial")
    assert (
        older_config(facts)["hidden_dims"]
        == model_config(facts, weights)["hidden_dims"]
        == ([] if name in ("binned", "polynomial") else [128, 128])
    )


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"model_state_dict": [1], "epoch": 1, "config": {}},
        {"model_state_dict": {}, "epoch": 1, "config": [1]},
        {"model_state_dict": {"x": 1}, "epoch": 1, "config": VIEWED},
    ],
)
def test_what_is_no_model_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match="other.pt: "):
        read_model(tmp_path / "other.pt")


def test_a_killed_write_leaves_nothing_partial(viewed, monkeypatch, tmp_path):
    before = (viewed / "history.json").read_bytes()

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("thesis_surrogates.core.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        execution.write_views(viewed)
    with pytest.raises(KeyboardInterrupt):
        replace_text(tmp_path / "new.json", "{}")
    assert (viewed / "history.json").read_bytes() == before and not list(tmp_path.iterdir())
    assert not [path for path in viewed.iterdir() if "partial" in path.name]


def test_facts_alone_give_the_tables(viewed, tmp_path):
    record = replace(read_run(viewed), path=tmp_path)  # no checkpoint here
    assert [name for name, _ in views(record)] == ["history.json", "config.json"]


def test_a_view_never_writes_over_the_facts(viewed, monkeypatch):
    for name in ("run.json", "facts/scalars.csv", "../x"):
        system = replace(get_system("tracks"), views=lambda run, name=name: [(name, b"")])
        monkeypatch.setattr(execution, "get_system", lambda _, system=system: system)
        with pytest.raises(ConfigError, match="another plain file name"):
            execution.write_views(viewed)


def test_a_pickle_is_not_a_model(tmp_path):
    np.save(tmp_path / "x.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable checkpoint"):
        read_model(tmp_path / "x.npy")
