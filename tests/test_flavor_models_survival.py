"""Networks that say how neutrinos survive, or what a scheme misses: laws, turns, physical states, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.flavor.asymptotics import RATE_PER_DENSITY, box3d, power_half
from thesis_surrogates.flavor.closure import growth_rate_estimate
from thesis_surrogates.flavor.generator import one_flavor_cells, patch_cells, random_cells, zero_flux_cells
from thesis_surrogates.flavor.metrics import equivariance_errors, law_violations, random_turn, turn_cells
from thesis_surrogates.flavor.mixing import normalised_species
from thesis_surrogates.flavor.models import MODELS, StochasticConfig, SurvivalConfig, YMatrixConfig, build
from thesis_surrogates.flavor.networks.deployed import nearly_isotropic, nsm1
from thesis_surrogates.flavor.networks.directions import OwnDirections
from thesis_surrogates.flavor.networks.survival import Exchange, Shape, smallest_matrix

NEW = {"features": "contrast", "exchange": "layers", "gate": "analytic"}
CONFIGS = {
    "survival": {"name": "survival"},
    "average": {"name": "survival", "exchange": "average", "gate": "none"},
    "sectors": {
        "name": "survival",
        "symmetry": "heavies_and_sectors",
        "rate_guide": "estimate",
        "sharing": "learned",
        "starts_from": "power_half",
    },
    "box3d": {"name": "ymatrix", **NEW, "residual_on": "box3d", "lepton_number": "direct", "physical": True},
    "power": {"name": "ymatrix", **NEW, "residual_on": "power_half", "rate_guide": "estimate"},
    "stochastic": {"name": "stochastic", **NEW, "residual_on": "box3d"},
}
ALWAYS_PHYSICAL = ("survival", "average", "sectors", "box3d", "stochastic")


def cells_up_to_the_cone(count, seed, single=True):
    """Random cells; a tenth of them has all its species on the light cone."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 1, (count, 1, 2, 3)) * 1e33
    way = rng.normal(size=(count, 3, 2, 3))
    factor = np.where(np.arange(count) < count // 10, 1.0, rng.uniform(0, 1, (1, 2, 3, count))).transpose(3, 0, 1, 2)
    cells = np.concatenate([way * factor / np.linalg.norm(way, axis=1, keepdims=True) * density, density], axis=1)
    return torch.from_numpy(cells).to(torch.float32 if single else torch.float64)


def wild(config, size=0.2):
    """A network that says much."""
    network = build(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.backbone.matrix_heads.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        features = network.X_from_F4(cells_up_to_the_cone(1000, 9))
        network.backbone.normalizer.fit(features.mean(0), features.std(0) + 1e-6)
    return network


def moved(final, cells):
    return (final - cells).abs().amax((1, 2, 3)) / cells[:, 3].sum((1, 2))


def turned_by(network, cells, turn):
    """How far the answer for a turned cell is from the turned answer, for each cell."""
    final = turn_cells(network.predict_all(cells)[0].double(), turn)
    return moved(network.predict_all(turn_cells(cells, turn))[0].double(), final)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_laws_turns_and_exchanges_to_rounding(name):
    network, turn = wild(CONFIGS[name]).double(), random_turn(7, reflect=True)
    cells = cells_up_to_the_cone(400, 2, single=False)
    final, rate, _ = network.predict_all(cells)
    found = law_violations(final, cells)
    assert found["trace_violation"] <= 1e-12 and found["eln_violation"] <= 1e-12 and moved(final, cells).median() > 1e-3
    exchanges = [lambda c: c[..., [0, 2, 1]]] + ([lambda c: c[:, :, [1, 0]]] if name == "sectors" else [])
    for change in (lambda c: turn_cells(c, turn), *exchanges):
        errors = equivariance_errors(network.predict_all, cells, change)
        assert errors["f4"] <= 1e-11 and errors["rate"] <= 1e-9, errors
    if name in ALWAYS_PHYSICAL:
        unit = final / cells[:, 3].sum((1, 2))[:, None, None, None]
        assert unit[:, 3].min() >= -1e-12 and (unit[:, :3].norm(dim=1) - unit[:, 3]).max() <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_single_precision(name):
    network, cells = wild(CONFIGS[name]), cells_up_to_the_cone(1000, 3)
    final = network.predict_all(cells)[0]
    found = law_violations(final, cells)
    assert found["trace_violation"] <= 1e-6 and found["eln_violation"] <= 1e-6
    if name in ALWAYS_PHYSICAL:
        assert found["negative_density_share"] == found["spacelike_share"] == 0
    errors = turned_by(network, cells, random_turn(5, reflect=True))
    assert errors.max() <= 1e-5
    density, flux, _ = network.predict_WhiskyTHC(cells)
    assert moved(network.F4_from_y(cells, density, flux), final).max() <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_stable_and_broken_cells_keep_every_bit(name):
    network = wild({**CONFIGS[name], "gate": "analytic"})
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(np.concatenate([zero_flux_cells(rng, 40), one_flavor_cells(rng, 40)])).float()
    cells[0, 2, 1, 0], cells[1, 3, 0, 1], cells[2] = torch.nan, -1e30, 0
    for factor in (1e-33, 1.0, 1e3):
        final, rate, stability = network.predict_all(cells * factor)
        assert final.numpy().tobytes() == (cells * factor).numpy().tobytes()
        assert (rate == 0).all() and (stability == 1).all()


@torch.no_grad()
def test_survival_moves_nothing_where_nothing_crosses_and_keeps_equal_heavies_equal():
    network = wild({"name": "survival", "gate": "none"}).double()
    rng = np.random.default_rng(1)
    still = torch.from_numpy(np.concatenate([zero_flux_cells(rng, 50), one_flavor_cells(rng, 50)]))
    assert moved(network.predict_all(still)[0], still).max() <= 1e-15
    cells = torch.from_numpy(np.concatenate([nsm1(), patch_cells(rng, 20)[0]]))
    cells[..., 2] = cells[..., 1]
    final = network.predict_all(cells)[0]
    alike = (final[..., 1] - final[..., 2]).abs().amax((1, 2)) / cells[:, 3].sum((1, 2))
    assert alike.max() <= 1e-14 and moved(final, cells).median() > 1e-2


@torch.no_grad()
def test_one_pair_is_three_where_heavies_are_equal():
    cells = torch.from_numpy(np.concatenate([nsm1(), patch_cells(np.random.default_rng(3), 40)[0]]))
    cells[..., 2] = cells[..., 1]
    species, _ = normalised_species(cells)
    found = []
    for alike in (True, False):
        one = torch.ones(len(cells), 1 if alike else 3, dtype=cells.dtype)
        found.append(Exchange(alike)(species, Shape(0.6 * one, 0.4 * one, 0.3 * one, 0.5 * one)))
    steps = [torch.cat([flux @ species[..., :3], density @ species[..., 3:]], -1) for density, flux in found]
    assert (steps[0] - steps[1]).abs().max() <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "scheme", "allowed"),
    [
        ({"name": "survival"}, box3d, 6e-3),
        ({"name": "survival", "starts_from": "power_half"}, power_half, 6e-3),
        ({"name": "survival", "sharing": "learned"}, box3d, 6e-3),
        ({"name": "ymatrix", "residual_on": "box3d"}, box3d, 1e-3),
        ({"name": "ymatrix", "residual_on": "power_half"}, power_half, 1e-3),
        ({"name": "stochastic", "residual_on": "box3d"}, box3d, 2e-3),
    ],
)
def test_untrained_it_is_the_scheme(config, scheme, allowed):
    cells = torch.from_numpy(np.concatenate([nsm1(), patch_cells(np.random.default_rng(5), 40)[0]]))
    final = build({**config, "gate": "analytic"}, seed=3).predict_all(cells)[0]
    errors, does = moved(final, scheme(cells, "weighted")), moved(scheme(cells, "weighted"), cells)
    assert errors.median() <= allowed and errors.quantile(0.95) <= 5 * allowed and does.median() > 0.02


@torch.no_grad()
def test_half_of_a_nearly_isotropic_crossing_mixes():
    cells = torch.from_numpy(nearly_isotropic((0.3, 0.03, 0.003)))
    cells[:, 3, :, 1:] = 0
    final = build({"name": "ymatrix", "gate": "analytic", "residual_on": "box3d"}).double().predict_all(cells)[0]
    assert (final[:, 3] / cells[:, 3].sum((1, 2))[:, None, None] - 1 / 6).abs().max() <= 1e-6


@torch.no_grad()
def test_the_growth_rate_starts_from_the_estimate():
    cells = torch.from_numpy(patch_cells(np.random.default_rng(6), 40)[0])
    network = build({"name": "survival", "rate_guide": "estimate"}).double()
    expected = network.guide(normalised_species(cells)[0]).exp() * cells[:, 3].sum((1, 2)) * RATE_PER_DENSITY
    grows = growth_rate_estimate(cells) > 0
    ratio = (expected / growth_rate_estimate(cells))[grows]
    assert (ratio.quantile(torch.tensor([0.1, 0.9]).double()).log().abs() < 0.02).all()
    free = build({"name": "survival"}).double()
    free.load_state_dict(network.state_dict())
    both = network.predict_all(cells)[1][grows] / free.predict_all(cells)[1][grows]
    torch.testing.assert_close(both, network.guide(normalised_species(cells)[0]).exp()[grows], rtol=1e-9, atol=0)


def test_directions_keep_moments_and_turn():
    cells = cells_up_to_the_cone(300, 8, single=False)
    cells[0, :3], cells[1, :, :, 1:], cells[2] = 0, 0, 0
    cells[3, :3] = cells[3, 3:] * torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64)[:, None, None]
    species, _ = normalised_species(cells)
    n, share, g = OwnDirections()(species)
    assert (share >= 0).all() and (g >= 0).all() and (n.norm(dim=-1) - 1).abs()[:, :96].max() <= 1e-12
    assert (share.sum(-1) - 1).abs().max() <= 1e-12
    assert ((share @ n) * species[..., 3:] - species[..., :3]).abs().max() <= 1e-12


def test_the_smallest_matrix():
    rng = np.random.default_rng(0)
    flux = torch.from_numpy(rng.normal(size=(50, 6, 3)) * 10.0 ** rng.uniform(-4, 0, (50, 1, 3)))
    flux[0, :, 1:], flux[1] = 0, 0
    change = torch.from_numpy(rng.normal(size=(50, 6, 6))) @ flux
    matrix = smallest_matrix(change, flux)
    assert (matrix @ flux - change).abs().max() <= 1e-12
    torch.testing.assert_close(matrix, change @ torch.linalg.pinv(flux, rtol=1e-10), rtol=1e-6, atol=1e-7)


def train(config, cells, truth, steps=150):
    network = build(config, seed=0).train()
    total = cells[:, 3].sum((1, 2))[:, None, None, None]
    with torch.no_grad():
        features = network.X_from_F4(cells)
        network.backbone.normalizer.fit(features.mean(0), features.std(0) + 1e-6)
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((network(cells).f4_final - truth) / total).square().mean().sqrt()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    return losses


@pytest.mark.parametrize("name", ["survival", "power", "stochastic"])
def test_it_learns_the_other_scheme(name):
    """Power-1/2 lies in the family of survival; a correction of the one scheme learns the other from few cells."""
    cells = torch.from_numpy(patch_cells(np.random.default_rng(4), 24)[0]).float()
    truth = (box3d if name == "power" else power_half)(cells, "weighted")
    losses = train({**CONFIGS[name], "width": 16}, cells, truth)
    assert losses[-1] < (0.35 if name == "survival" else 0.8) * losses[0], (losses[0], losses[-1])


def test_options_leave_older_configurations_as_they_are():
    assert set(MODELS) == {"ymatrix", "stochastic", "survival"}
    for kind in (YMatrixConfig, StochasticConfig):
        assert not {"residual_on", "rate_guide"} & set(kind().model_dump())
        assert kind(residual_on="box3d").model_dump()["residual_on"] == "box3d"
    assert SurvivalConfig().gate == "analytic" and not SurvivalConfig().remarks()
    assert set(build({"name": "ymatrix"}).state_dict()) == set(
        build({"name": "ymatrix", "residual_on": "box3d"}).state_dict()
    )
    with pytest.raises(ConfigError, match="azimuths"):
        build({"name": "survival", "azimuths": 7})
    with pytest.raises(ConfigError, match="residual_on"):
        build({"name": "ymatrix", "residual_on": "box"})


@pytest.mark.parametrize("name", ["survival", "sectors", "power", "stochastic"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_script_answers_the_same(name, tmp_path):
    network = wild(CONFIGS[name])
    cells = torch.cat(
        [cells_up_to_the_cone(20, 0), torch.from_numpy(random_cells(np.random.default_rng(0), 20)).float()]
    )
    torch.jit.script(network).save(tmp_path / "network.pt")
    loaded = torch.jit.load(tmp_path / "network.pt")
    with torch.no_grad():
        assert moved(loaded.predict_all(cells)[0], network.predict_all(cells)[0]).max() <= 1e-5
        assert loaded.double().predict_all(cells.double())[0].dtype == torch.float64
        assert all(loaded.predict_all(cells[:count].double())[0].shape[0] == count for count in (0, 1))
