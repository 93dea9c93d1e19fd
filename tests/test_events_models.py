"""Guards of the event autoencoders: symmetries, gradients, codebook, tokenizers, training of every part."""

import math

import pytest
import torch
from small_models import small_events
from torch import nn

from thesis_surrogates.core.config import check_run
from thesis_surrogates.core.data import Data
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.core.training import fit
from thesis_surrogates.events.bottlenecks import VectorQuantizer
from thesis_surrogates.events.data import EventsData
from thesis_surrogates.events.losses import EventsTrain, LossWeights, make_loss_terms
from thesis_surrogates.events.metrics import score
from thesis_surrogates.events.models import GLOBALS_HEADS, MODELS, build_autoencoder, decode_tokens, reconstruct
from thesis_surrogates.events.system import SYSTEM
from thesis_surrogates.events.tokenizers import circle_axis, fit_bins
from thesis_surrogates.events.training import fit_scalers

VARIANTS = [(name, head, types) for name in MODELS for head in GLOBALS_HEADS for types in (True, False)]


@pytest.fixture(scope="module")
def data():
    return Data(splits=small_events(train=1_500, validation=200, test=400), fingerprint="test", meta={})


def prepared(data, name="ae_vq", **options):
    torch.manual_seed(0)
    model = build_autoencoder(MODELS[name](**options))
    fit_scalers(model, data)
    return model


@pytest.mark.parametrize(("name", "head", "types"), VARIANTS)
def test_padding_and_order_do_not_matter(data, name, head, types):
    model = prepared(data, name, globals_head=head, type_head=types).eval()
    split = {k: v[:64] for k, v in data.splits["test"].items()}
    x, t = split["features"], split["types"]
    real = t != 0
    passed, decoded = model(x, t)
    noisy = torch.where(real[..., None], x, 1e3 * torch.randn(x.shape))
    order = torch.randperm(18)
    for x2, t2, back in (
        (noisy, t, slice(0, 18)),
        (nn.functional.pad(noisy, (0, 0, 0, 14)), nn.functional.pad(t, (0, 14)), slice(0, 18)),
        (x[:, order], t[:, order], torch.argsort(order)),
    ):
        passed2, decoded2 = model(x2, t2)
        assert torch.equal(passed2.codes[:, back], passed.codes)
        torch.testing.assert_close(decoded2.features[:, back], decoded.features, atol=1e-6, rtol=0)
        torch.testing.assert_close(decoded2.met, decoded.met, atol=2e-6, rtol=1e-6)
    empty = model(x, torch.zeros_like(t))
    assert torch.isfinite(empty[1].met).all() and empty[0].commit == 0
    assert torch.isfinite(make_loss_terms(LossWeights())(model, dict(split, types=torch.zeros_like(t)))["loss"])


@pytest.mark.parametrize(("name", "head", "types"), VARIANTS)
def test_every_variant_trains_and_every_parameter_moves(data, name, head, types):
    model = prepared(data, name, globals_head=head, type_head=types)
    before = {key: value.clone() for key, value in model.named_parameters()}
    train = EventsTrain(epochs=1, batch_size=250)
    result = fit(model, SYSTEM.plan(model, data, MODELS["ae_vq"](), train, 0), seed=0, train=train)
    assert result.status == "done" and math.isfinite(result.best_value)
    still = [key for key, value in model.named_parameters() if torch.equal(before[key], value)]
    assert still == []


def test_parameter_count_of_the_earlier_framework():
    model = build_autoencoder(MODELS["ae_vq"](latent=32, type_head=False, globals_head="mean_latent"))
    assert sum(p.numel() for p in model.parameters()) == 61_126
    assert count_parameters(model) == 61_126 - 512 * 32


@pytest.mark.parametrize("size", [4, 32])
def test_codes_stay_where_the_data_is_after_one_step(size):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(512, size, decay=0.99).train()
    z = torch.randn(64, 18, size)
    quantizer(z, torch.rand(64, 18) < 0.5)
    quantizer.update(0)
    assert quantizer.codebook.norm(dim=-1).max() <= 10 * z.norm(dim=-1).max()


def test_padding_never_enters_the_codebook():
    quantizers = [VectorQuantizer(16, 2) for _ in range(2)]
    z, real = torch.randn(8, 18, 2), torch.rand(8, 18) < 0.5
    for quantizer, noise in zip(quantizers, (0.0, 1e3), strict=True):
        quantizer.train()(torch.where(real[..., None], z, torch.full_like(z, noise)), real)
        quantizer.update(7)
    assert torch.equal(quantizers[0].codebook, quantizers[1].codebook)
    assert torch.equal(quantizers[0].counts, quantizers[1].counts)


def test_training_resumes_to_the_same_codebook(data, tmp_path):
    train = EventsTrain(epochs=3, batch_size=250)
    whole, parts = prepared(data), prepared(data)
    fit(whole, SYSTEM.plan(whole, data, MODELS["ae_vq"](), train, 3), seed=3, train=train)
    status = "paused"
    for budget in (1e-9, 1e-9, None):
        parts = prepared(data)
        status = fit(
            parts,
            SYSTEM.plan(parts, data, MODELS["ae_vq"](), train, 3),
            seed=3,
            train=train,
            checkpoints=tmp_path,
            budget_seconds=budget,
        ).status
    assert status == "done"
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), atol=1e-6, rtol=0)


def test_identity_round_trip_of_normalisation(data):
    model = prepared(data, "ae_identity")
    x = data.splits["test"]["features"][data.splits["test"]["types"] != 0]
    torch.testing.assert_close(model.scaler.inverse(model.scaler(x)), x, rtol=1e-5, atol=1e-5)


def test_binned_tokenizer_is_fair(data):
    phi = (torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * math.pi
    shares = torch.bincount(circle_axis(5).index(phi), minlength=5) / len(phi)
    assert (shares - 0.2).abs().max() < 0.01
    train = data.splits["train"]
    tokenizer = fit_bins(train)
    pt = train["particles"][train["types"] != 0][:, 0]
    assert (torch.bincount(tokenizer.axes[0].index(pt)) / len(pt) - 0.2).abs().max() < 0.01
    tokens = torch.arange(875).reshape(25, 35)
    assert torch.equal(tokenizer.encode(*tokenizer.decode(tokens)), tokens)


def test_counts_are_the_particles(data):
    model = prepared(data).eval()
    test = data.splits["test"]
    scores = score(SYSTEM.surrogate(model, data).predict(test), test)
    assert scores.samples["code_counts"].sum() == (test["types"] != 0).sum()
    assert set(SYSTEM.terms.columns) <= set(scores.metrics)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"model": {"name": "ae_vqq"}}, "ae_vq"),
        ({"model": {"name": "ae_vq", "codebook": 4}}, "codebook"),
        ({"model": {"name": "ae_vq", "codes": 1}}, "codes"),
        ({"train": {"weights": {"commits": 1}}}, "commit"),
        ({"data": {"events": 10}}, "events"),
    ],
)
def test_mistyped_keys_name_the_remedy(part, words):
    run = {"system": "events", "name": "x", "model": {"name": "ae_vq"}, "data": {}, "train": {}} | part
    with pytest.raises(ConfigError, match=words):
        check_run(run, MODELS, EventsData, EventsTrain)


def test_linear_rank_beyond_latent_is_refused():
    with pytest.raises(ValueError, match="rank 9"):
        build_autoencoder(MODELS["ae_linear"](latent=4, rank=9))


def test_reconstruction_keeps_what_padding_held_out(data):
    model = prepared(data).eval()
    split = data.splits["test"]
    out = reconstruct(model, split["particles"], split["types"])
    pads = split["types"] == 0
    assert (out.particles[pads] == 0).all() and (out.types[pads] == 0).all() and (out.codes[pads] == -1).all()
    assert torch.isfinite(out.particles).all()


@pytest.mark.parametrize("wrong", [512, -2])
def test_a_token_outside_of_the_codebook_is_named(data, wrong):
    codes = torch.zeros(3, 18, dtype=torch.long)
    codes[2, 4] = wrong
    with pytest.raises(DataError, match=f"event 2 has the code {wrong} in slot 4; allowed are -1 to 511"):
        decode_tokens(prepared(data), codes)
