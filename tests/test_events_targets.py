"""The default codebook on 20,000 generated events, held to its targets in four of the six epochs it may take."""

import torch

from thesis_surrogates.core.training import fit
from thesis_surrogates.events.data import EventsData, load_data, make_data
from thesis_surrogates.events.system import SYSTEM


def test_default_codebook_reaches_its_targets(tmp_path):
    config = EventsData()
    make_data(config, tmp_path / "events.h5")
    data = load_data(config, tmp_path / "events.h5")
    model_config = SYSTEM.models["ae_vq"]()
    train = SYSTEM.train_config(epochs=4, batch_size=128)
    torch.manual_seed(0)
    model = model_config.build(config)
    fit(model, SYSTEM.plan(model, data, model_config, train, 0), seed=0, train=train)
    test = data.splits["test"]
    with torch.no_grad():
        scores = SYSTEM.score(SYSTEM.surrogate(model.eval(), data).predict(test), test)
    metrics = scores.metrics
    assert scores.samples["code_counts"].sum() == (test["types"] != 0).sum()
    assert metrics["codes_used"] >= 0.95 and metrics["perplexity"] >= 400
    assert metrics["pt_half_width"] <= 0.16
    assert metrics["eta_half_width"] <= 0.25
    assert metrics["phi_half_width_rad"] <= 0.24
    assert metrics["visible_met_half_width_gev"] < 80
    assert metrics["met_r2"] > 0.4
