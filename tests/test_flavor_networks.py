"""The faults of the older flavor networks, each cured: gates, beams on the cone, digits, cells that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.flavor.generator import one_flavor_cells, random_cells, zero_flux_cells
from thesis_surrogates.flavor.metrics import equivariance_errors, law_violations, random_turn, turn_cells
from thesis_surrogates.flavor.mixing import Mixing
from thesis_surrogates.flavor.models import MODELS, StochasticConfig, YMatrixConfig, build
from thesis_surrogates.flavor.networks.backbone import HEADS
from thesis_surrogates.flavor.networks.deployed import nearly_isotropic, nsm1
from thesis_surrogates.flavor.networks.gates import GATES, Gate
from thesis_surrogates.flavor.networks.surrogate import components_first, components_last

# What configurations without the later keys answered before there were any, for seed 5 and the cells of `random_rows`.
BEFORE = json.loads((Path(__file__).parent / "flavor_answers.json").read_text(encoding="utf-8"))
OLDER = {
    "gram": YMatrixConfig(),
    "closure": YMatrixConfig(features="closure"),
    "ungated": YMatrixConfig(features="closure", gate_stable=False),
    "averaged": YMatrixConfig(average_heavies=True, lepton_number="direct"),
    "plain": YMatrixConfig(f_dot_u=False, batch_norm=True, dropout=0.1, lepton_number="off"),
    "sectors": YMatrixConfig(symmetry="heavies_and_sectors"),
    "stochastic": StochasticConfig(features="closure"),
    "stochastic sectors": StochasticConfig(symmetry="heavies_and_sectors", average_heavies=True),
}
NEW = {"features": "contrast", "exchange": "layers", "gate": "analytic"}
CONFIGS = {
    "layers": {"name": "ymatrix", **NEW, "physical": True},
    "gram": {"name": "ymatrix", **NEW, "features": "gram", "lepton_number": "direct", "physical": True},
    "average": {"name": "ymatrix", **NEW, "exchange": "average", "average_heavies": True},
    "sectors": {"name": "ymatrix", **NEW, "symmetry": "heavies_and_sectors", "heads": {"flux": {"width": 16}}},
    "stochastic": {"name": "stochastic", **NEW, "heads": {"growthrate": {"layers": 3}}},
}


def random_rows(count, seed, lowest=0.0, highest=0.85, rare=1.0):
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 1, (count, 1, 2, 3)) * 1e33
    density[:, :, 1] *= rare
    way = rng.normal(size=(count, 3, 2, 3))
    way *= rng.uniform(lowest, highest, (count, 1, 2, 3)) / np.linalg.norm(way, axis=1, keepdims=True)
    return torch.from_numpy(np.concatenate([way * density, density], axis=1)).float()


def wild(config, factor=4.0):
    """An untrained network that moves much, with the scales of its features."""
    network = build(config, seed=1)
    with torch.no_grad():
        for parameter in network.backbone.matrix_heads.parameters():
            parameter.mul_(factor)
        features = network.X_from_F4(random_rows(1000, 9))
        network.backbone.normalizer.fit(features.mean(0), features.std(0) + 1e-6)
    return network


def moved(final, cells):
    return (final - cells).abs().amax((1, 2, 3)) / cells[:, 3].sum((1, 2))


@torch.no_grad()
@pytest.mark.parametrize("name", OLDER)
def test_older_configurations_answer_as_before(name):
    network, cells, before = build(OLDER[name], seed=5), random_rows(6, 11), BEFORE[name]
    final, log_rate, logit = network(cells)
    change = (final - cells)[:, 1:, :, :2].double() / cells[:, 3].double().sum((1, 2))[:, None, None, None]
    found = {"change": change.flatten(1)[:, [0, 3, 9]], "log_rate": log_rate, "logit": logit}
    found["rate"] = network.predict_all(cells)[1]
    for key, value in found.items():
        wanted = torch.tensor(before[key], dtype=value.dtype)
        torch.testing.assert_close(value, wanted, rtol=2e-6, atol=2e-7 * float(wanted.abs().max()))


# 1. a gate that is not the crossing test suppresses real conversion


@torch.no_grad()
def test_a_nearly_isotropic_crossing_is_not_held_back():
    cells = torch.from_numpy(nearly_isotropic((0.3, 0.03, 0.01, 0.003, 0.001))).float()
    shares = {}
    for gate in ("trivial", "analytic"):
        network = build({"name": "ymatrix", "gate": gate, "gate_stable": False}, seed=0)
        free = build({"name": "ymatrix", "gate": "none"}, seed=0)
        free.load_state_dict(network.state_dict(), strict=False)
        shares[gate] = moved(network(cells)[0], cells) / moved(free(cells)[0], cells)
    assert shares["trivial"][-1] < 0.06 and (shares["analytic"] - 1).abs().max() < 1e-5
    final, rate, stability = network.predict_all(cells)
    assert (stability < 0.5).all() and (rate > 0).all() and (moved(final, cells) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_crossing_not_one_bit_moves(name):
    single = torch.from_numpy(one_flavor_cells(np.random.default_rng(1), 60))
    cells = torch.cat([torch.from_numpy(zero_flux_cells(np.random.default_rng(0), 60)), single]).float()
    cells[:5, 3, 0, 1] = -0.0
    for factor in (1e-33, 1.0, 1e3):  # densities up to 1e36
        final, rate, stability = wild(CONFIGS[name]).predict_all(cells * factor)
        assert (stability == 1).all() and (rate == 0).all()
        assert final.numpy().tobytes() == (cells * factor).numpy().tobytes()


def test_a_gate_that_is_not_named_is_that_of_its_time():
    assert YMatrixConfig().remarks() and "gate" not in YMatrixConfig().model_dump()
    for gate in set(GATES) - {"trivial"}:
        config = YMatrixConfig(gate=gate)
        assert not config.remarks() and config.model_dump()["gate"] == gate
    names = [set(build({"name": "ymatrix", "gate": gate}).state_dict()) for gate in ("trivial", "learned")]
    assert names[0] == names[1]


# 2. one factor for all species freezes a cell as soon as one of them is on the cone


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.9, 0.999, 0.999999, 1.0, 1.00001])
@pytest.mark.parametrize("rare", [1.0, 1e-5])
def test_species_on_the_cone_freeze_nothing(factor, rare):
    network = wild({"name": "ymatrix", "gate": "none", "features": "contrast", "physical": True})
    cells = random_rows(500, 3, factor, factor, rare)
    final = network.predict_all(cells)[0]
    assert moved(final, cells).median() > 1e-2
    found = law_violations(final, cells)
    assert found["trace_violation"] <= 5e-6 and found["eln_violation"] <= 5e-6
    assert found["negative_density_share"] == 0
    unit = final.double() / cells.double()[:, 3].sum((1, 2))[:, None, None, None]
    assert (unit[:, :3].norm(dim=1) - unit[:, 3]).max() <= 1.2e-5
    turn = random_turn(5)
    errors = equivariance_errors(network.predict_all, cells, lambda c: turn_cells(c, turn))
    assert errors["f4"] <= 1e-5


@torch.no_grad()
def test_one_beam_beside_rare_species_stays_physical():
    """Nearly all neutrinos in one beam: the physical states are a thin set, whose width is a root of a rounding."""
    network = wild({"name": "ymatrix", "gate": "none", "physical": True})
    cells = random_rows(500, 4, 0.0, 1.0)
    cells[..., 1:] *= 1e-5
    cells[:, :3, :, 0] *= cells[:, 3:, :, 0] / cells[:, :3, :, 0].double().norm(dim=1, keepdim=True).float()
    final = network.predict_all(cells)[0]
    found = law_violations(final, cells)
    assert found["spacelike_share"] == found["negative_density_share"] == 0 and found["trace_violation"] <= 5e-6
    turn = random_turn(6)
    errors = equivariance_errors(network.predict_all, cells, lambda c: turn_cells(c, turn))
    assert errors["f4"] <= 1e-5


def test_mended_changes_teach():
    network = wild({"name": "ymatrix", "gate": "none", "physical": True})
    cells = random_rows(64, 3, 1.0, 1.0)
    cells[:8, :3] = 0
    (network(cells)[0] / 1e33).square().sum().backward()
    grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads) and sum(float(grad.abs().sum()) for grad in grads) > 0


# 3. digits of features


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.5, 0.95, 0.97, 0.979, 1.0])
@pytest.mark.parametrize("rare", [1.0, 1e-5])
def test_a_turned_cell_has_the_same_rate(factor, rare):
    network = wild({"name": "ymatrix", "gate": "analytic", "features": "contrast", "exchange": "layers"}, 1.0)
    cells, turn = random_rows(1000, 3, factor, factor, rare), random_turn(5)
    errors = equivariance_errors(network.predict_all, cells, lambda c: turn_cells(c, turn))
    assert errors["f4"] <= 1e-5 and errors["rate"] <= 1e-5


# 4. what is not a cell


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_unphysical_cells_come_back_and_are_counted(name):
    cells = random_rows(9, 4, 0.1, 0.6)
    cells[1, 3, 0, 0], cells[1, 0, 0, 0] = 0, 1e20
    cells[2] = 0
    cells[2, 0, 0, 0] = 1e20
    cells[3, 2, 1, 0], cells[4, 3, 1, 2], cells[5, 3, 0, 1] = torch.nan, torch.inf, -1e25
    for row, factor in ((6, 1.0001), (7, 1.00001)):
        beam = cells[row, :3, 0, 0].double()
        cells[row, :3, 0, 0] = factor * cells[row, 3, 0, 0] * beam / beam.norm()
    network, bad = wild(CONFIGS[name]), slice(1, 7)
    final, rate, stability = network.predict_all(cells)
    assert network.is_physical(cells).tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1]
    assert final[bad].numpy().tobytes() == cells[bad].numpy().tobytes()
    assert (rate[bad] == 0).all() and (stability[bad] == 1).all()
    alone = network.predict_all(cells[[0, 7, 8]])
    for whole, part in zip((final, rate, stability), alone, strict=True):
        torch.testing.assert_close(whole[[0, 7, 8]], part)
    assert (moved(final, cells)[[7, 8]] > 0).all() or (stability[[7, 8]] == 1).any()
    assert torch.isfinite(network(cells)[1]).all() and torch.isfinite(network(cells)[2]).all()


# form: options, symmetries, arrays


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_laws_and_symmetries_of_every_option(name):
    network, cells = wild(CONFIGS[name]), random_rows(1000, 2, 0.0, 1.0)
    final = network.predict_all(cells)[0]
    found = law_violations(final, cells)
    assert found["trace_violation"] <= 1e-5 and found["eln_violation"] <= 1e-5 and moved(final, cells).median() > 1e-3
    exchanges = [lambda c: c[..., [0, 2, 1]]] + ([lambda c: c[:, :, [1, 0]]] if name == "sectors" else [])
    turn = random_turn(7, reflect=True)
    for change in (*exchanges, lambda c: turn_cells(c, turn)):
        errors = equivariance_errors(network.predict_all, cells, change)
        assert max(errors.values()) <= 1e-5, errors


@torch.no_grad()
@pytest.mark.parametrize("name", ["layers", "average", "stochastic"])
def test_double_precision_is_exact(name):
    network, cells = wild(CONFIGS[name]).double(), random_rows(300, 2, 0.0, 1.0).double()
    turn = random_turn(7)
    errors = equivariance_errors(network.predict_all, cells, lambda c: turn_cells(c, turn))
    assert max(errors.values()) <= 1e-11, errors
    found = law_violations(network.predict_all(cells)[0], cells)
    assert found["trace_violation"] <= 1e-13 and found["eln_violation"] <= 1e-13


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_are_the_final_state(name):
    network, cells = wild(CONFIGS[name]), random_rows(500, 6, 0.0, 1.0)
    density, flux, rate = network.predict_WhiskyTHC(cells)
    final, rate_all, _ = network.predict_all(cells)
    assert moved(network.F4_from_y(cells, density, flux), final).max() <= 1e-5 and torch.equal(rate, rate_all)
    assert (density.sum(2) - torch.eye(2)[None, :, :, None]).abs().max() < 1e-4


def test_arrays_and_tensors_of_any_precision():
    network, cells = build(CONFIGS["layers"]), np.concatenate([nsm1(), random_cells(np.random.default_rng(0), 20)])
    final, rate, stability = network.predict_all(cells)
    assert isinstance(final, np.ndarray) and final.dtype == cells.dtype and rate.shape == stability.shape == (21,)
    assert np.array_equal(final[stability > 0.5], cells[stability > 0.5]) and stability[0] < 0.5 < rate[0]
    tensors = network.predict_all(torch.from_numpy(cells))
    assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip((final, rate, stability), tensors, strict=True))
    assert np.array_equal(components_first(components_last(cells)), cells)
    assert torch.equal(components_first(components_last(torch.from_numpy(cells))), torch.from_numpy(cells))
    for count in (0, 1):
        assert network.predict_all(cells[:count])[0].shape == (count, 4, 2, 3)
    for wrong in (components_last(cells), cells[0], cells.astype(int)):
        with pytest.raises(DataError, match=r"expected numbers \[n, 4, 2, 3\]"):
            network.predict_all(wrong)


def test_two_flavors():
    network, cells = build({"name": "ymatrix", "gate": "none"}), random_rows(50, 1)
    cells[..., 2] = cells[..., 1]
    with torch.no_grad():
        density = network.predict_WhiskyTHC(cells)[0]
        two, final = network.convert_y_to_2flavor(density), network.predict_all(cells)[0][:, 3]
    pair = torch.stack([cells[:, 3, :, 0], cells[:, 3, :, 1:].sum(-1)], -1)
    after = torch.einsum("niajb,njb->nia", two, pair)
    torch.testing.assert_close(after, torch.stack([final[..., 0], final[..., 1:].sum(-1)], -1), rtol=1e-4, atol=1e28)


def test_a_mapping_is_checked():
    with pytest.raises(ConfigError, match="no model 'ymatrx'; did you mean 'ymatrix'"):
        build({"name": "ymatrx"})
    with pytest.raises(ConfigError, match="gates: unknown key"):
        build({"name": "ymatrix", "gates": "none"})
    with pytest.raises(ConfigError, match="no head 'rate'"):
        build({"name": "ymatrix", "heads": {"rate": {"width": 3}}})
    with pytest.raises(ConfigError, match="batch_norm"):
        build({"name": "ymatrix", "exchange": "layers", "batch_norm": True})
    sized = build({"name": "stochastic", "heads": {"mixing": {"width": 5, "layers": 2}}})
    assert [layer.out_features for layer in sized.backbone.matrix_heads[0] if hasattr(layer, "out_features")] == [
        5,
        5,
        HEADS["mixing"],
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_network_answers_all_questions(name, tmp_path):
    network, cells = wild(CONFIGS[name]), random_rows(20, 0)
    torch.jit.script(network).save(tmp_path / "network.pt")
    loaded = torch.jit.load(tmp_path / "network.pt")
    with torch.no_grad():
        for ours, theirs in zip(network.predict_all(cells), loaded.predict_all(cells), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e28)
        assert len(loaded.predict_WhiskyTHC(cells)) == 3 and loaded.is_physical(cells).shape == (20,)
        assert torch.equal(loaded.X_from_F4(cells), network.X_from_F4(cells))


def test_gates_and_mixings_say_what_their_bases_ask():
    found = [build({"name": name, "width": 8}).mixing for name in MODELS]
    found += [build({"name": name, "width": 8, "residual_on": "box3d"}).mixing for name in ("ymatrix", "stochastic")]
    for mixing in found:
        assert type(mixing).__bases__ == (Mixing,) and len(mixing.heads) == mixing.matrices
    for gate in GATES.values():
        assert gate.__bases__ == (Gate,) and gate.__final__
    for base in (Mixing, Gate):
        with pytest.raises(TypeError, match="abstract"):
            base()
