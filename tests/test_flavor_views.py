"""The files that users of flavor expect in a run directory: derived from facts, the same bytes again, readable by what
reads them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thesis_surrogates.core.checkpoints import load_checkpoint, load_weights
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.flavor.exchange.older_files import loss_columns, write_loss_dat
from thesis_surrogates.flavor.models import build
from thesis_surrogates.running.execution import run, trained_model, write_views

CONFIG = {
    "system": "flavor",
    "model": {"name": "ymatrix", "width": 8, "gate": "analytic", "exchange": "layers", "lepton_number": "off"},
    "data": {"cells": 300, "quadrature_order": 17},
    "train": {"epochs": 3, "batch_size": 64, "keep_every": 2, "learned_weights": True},
}


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    return run(CONFIG, out=folder / "runs", data_dir=folder / "data", progress=False).path


def read_table(path):
    """Split at white space, as gnuplot does."""
    first, *rows = path.read_text().splitlines()
    return [word.partition(":") for word in first.split()], np.array([row.split() for row in rows], dtype=float)


def test_a_run_ends_with_its_views_and_the_bytes_come_back(viewed):
    best = read_run(viewed).last_event("end")["best_epoch"] + 1
    names = {"loss.dat", "loss.png", "parameters.txt", "model2_cpu.pt", f"model{best}_cpu.pt"}
    assert names <= {path.name for path in viewed.iterdir()}
    before = {name: (viewed / name).read_bytes() for name in names}
    assert {path.name for path in write_views(viewed)} == names
    assert all((viewed / name).read_bytes() == content for name, content in before.items())
    assert before["loss.png"].startswith(b"\x89PNG")


def test_loss_dat_has_a_number_for_each_name(viewed):
    names, rows = read_table(viewed / "loss.dat")
    assert [int(number) for number, _, _ in names] == list(range(1, len(names) + 1))
    words = [word for _, _, word in names]
    assert rows.shape == (3, len(words)) and np.isfinite(rows).all() and rows[:, 0].tolist() == [1, 2, 3]
    assert words[1:3] == ["stability_train_loss", "stability_train_max"] and words[13] == "stability_test_loss"
    assert words[25:29] == ["train_loss", "test_loss", "ELN_violation", "learning_rate"]
    assert len(words[29:]) == 5 and all(word.startswith("weight_") for word in words[29:])
    text = (viewed / "loss.dat").read_text().splitlines()[1]
    assert text.startswith("1           ") and "\t" not in text[:22]
    facts = read_run(viewed)
    for name, (split, metric) in loss_columns(facts).items():
        recorded = facts.curve(split, metric).to_numpy()
        np.testing.assert_allclose(rows[:, words.index(name)], recorded, rtol=6e-4, err_msg=name)
    assert (rows[:, words.index("ELN_violation")] > 1e-3).all(), "this network may violate it"
    assert (rows[:, words.index("ndens_test_max")] ** 2 >= rows[:, words.index("ndens_test_loss")]).all()


def test_what_an_older_run_did_not_record_is_no_number(viewed):
    facts = read_run(viewed)
    older = facts.scalars[~facts.scalars.metric.str.endswith("_max") & ~facts.scalars.metric.str.startswith("weight_")]
    facts = facts.__class__(**{**{k: v for k, v in vars(facts).items() if k != "points"}, "scalars": older})
    first, *rows = write_loss_dat(facts).splitlines()
    values = [float(word) for word in rows[0].split()]
    assert len(values) == len(first.split()) == 29 and sum(math.isnan(value) for value in values) == 13


def test_parameters_are_one_a_line(viewed):
    pairs = dict(line.split(" = ", 1) for line in (viewed / "parameters.txt").read_text().splitlines())
    assert pairs["train.loss_multiplier_ndens"] == "1.0" and pairs["model.name"] == "ymatrix"
    assert pairs["train.learned_weights"] == "True" and pairs["device"] == "cpu"


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_answers_as_the_network_of_its_epoch(viewed):
    script, (_, config, _) = torch.jit.load(viewed / "model2_cpu.pt", map_location="cpu"), trained_model(viewed)
    network = build(config.model)
    kept = viewed / "checkpoints" / "epoch_2.pt"
    load_weights(network, load_checkpoint(kept)["model"], kept)
    cells = torch.zeros(2, 4, 2, 3)
    cells[:, 3] = 1e33
    cells[0, 2, 0, 0], cells[0, 2, 1, 0] = 5e32, -5e32
    for ours, theirs in zip(network.predict_all(cells), script.predict_all(cells), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert float(network.predict_all(cells)[1][0]) > 0 and script.predict_all(cells[:1])[1].shape == (1,)
