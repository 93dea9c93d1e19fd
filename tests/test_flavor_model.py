"""Guards of the flavor networks: laws, symmetries, trivial limits, export, and the losses at the truth."""

import itertools

import numpy as np
import pytest
import torch

from thesis_surrogates.flavor.generator import one_flavor_cells, zero_flux_cells
from thesis_surrogates.flavor.losses import TASKS, FlavorTrain, log_rate, make_loss_terms, rate_loss, stability_loss
from thesis_surrogates.flavor.metrics import equivariance_errors, law_violations, random_turn, turn_cells
from thesis_surrogates.flavor.models import StochasticConfig, YMatrixConfig, build

CONFIGS = {
    "gram": YMatrixConfig(gate_stable=False),
    "closure": YMatrixConfig(features="closure", gate_stable=False),
    "direct": YMatrixConfig(lepton_number="direct", gate_stable=False),
    "physical": YMatrixConfig(physical=True, gate_stable=False),
    "averaged": YMatrixConfig(average_heavies=True, gate_stable=False),
    "plain": YMatrixConfig(f_dot_u=False, batch_norm=True, dropout=0.1, gate_stable=False),
    "sectors": YMatrixConfig(symmetry="heavies_and_sectors", gate_stable=False),
    "stochastic": StochasticConfig(features="closure", gate_stable=False),
    "stochastic sectors": StochasticConfig(symmetry="heavies_and_sectors", average_heavies=True, gate_stable=False),
}


def random_rows(count, seed):
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 1, (count, 1, 2, 3)) * 1e33
    way = rng.normal(size=(count, 3, 2, 3))
    way *= rng.uniform(0, 0.85, (count, 1, 2, 3)) / np.linalg.norm(way, axis=1, keepdims=True)
    return torch.from_numpy(np.concatenate([way * density, density], axis=1)).float()


@pytest.fixture(params=list(CONFIGS))
def network(request):
    """An untrained network with weights large enough to move much, and random scales."""
    torch.manual_seed(0)
    network = build(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for parameter in network.backbone.matrix_heads.parameters():
            parameter.mul_(2)
        features = network.backbone.features(random_rows(2000, 9).flatten(2).transpose(1, 2) / 1e33)
        network.backbone.normalizer.fit(features.mean(0), features.std(0) + 1e-6)
    return network


@torch.no_grad()
def test_conservation_on_ten_thousand_rows(network):
    cells = random_rows(10_000, 0)
    final = network.predict_all(cells)[0]
    found = law_violations(final, cells)
    assert found["trace_violation"] <= 1e-5 and found["eln_violation"] <= 1e-5
    moved = ((final - cells).abs().amax((1, 2, 3)) / cells[:, 3].sum((1, 2))).median()
    assert moved > 1e-3, "a network that moves nothing conserves everything"


@torch.no_grad()
def test_without_the_law_lepton_number_is_violated():
    torch.manual_seed(0)
    network = build(YMatrixConfig(lepton_number="off", gate_stable=False)).eval()
    cells = random_rows(1000, 0)
    assert law_violations(network.predict_all(cells)[0], cells)["eln_violation"] > 0.01


@torch.no_grad()
@pytest.mark.parametrize("reflect", [False, True])
def test_rotations_and_reflections(network, reflect):
    matrix = random_turn(5, reflect)
    errors = equivariance_errors(network.predict_all, random_rows(2000, 1), lambda cells: turn_cells(cells, matrix))
    assert errors["f4"] <= 1e-5 and errors["rate"] <= 1e-4 and errors["stability"] <= 1e-5


@torch.no_grad()
def test_exchanges(network):
    cells = random_rows(2000, 2)
    errors = equivariance_errors(network.predict_all, cells, lambda c: c[..., [0, 2, 1]])
    assert max(errors.values()) <= 1e-5
    if network.backbone.count == 4:
        errors = equivariance_errors(network.predict_all, cells, lambda c: c[:, :, [1, 0]])
        assert max(errors.values()) <= 1e-5


def test_equal_heavies_stay_equal_and_learn(network):
    cells = random_rows(200, 3)
    cells[..., 2] = cells[..., 1]
    final = network(cells)[0] / 1e33
    assert (final[..., 1] - final[..., 2]).abs().max() <= 1e-6
    raw = torch.randn(200, network.mixing.matrices, 6, 6, requires_grad=True)
    species = cells.flatten(2).transpose(1, 2) / cells[:, 3].sum((1, 2))[:, None, None]
    (torch.randn(6, 1) * network.mixing(raw, species)[0]).sum().backward()
    rows = raw.grad[:, 0].abs().sum((0, 2))
    assert (rows[[1, 2, 4, 5]] > 0).all()


@torch.no_grad()
def test_trivial_limits(network):
    flux = torch.from_numpy(zero_flux_cells(np.random.default_rng(0), 100)).float()
    flux[:20, :, 0, 1] = 0
    single = torch.from_numpy(one_flavor_cells(np.random.default_rng(1), 100)).float()
    sharp = torch.zeros(4, 4, 2, 3)
    sharp[:, 3, 0, 0], sharp[:, 2, 0, 0] = 1e33, torch.tensor([0.1, 0.5, 0.9, 0.999]) * 1e33
    cells = torch.cat([flux, single, sharp])
    final, rate, stability = network.predict_all(cells)
    assert (stability == 1).all() and (rate == 0).all() and ((final - cells).abs().max() / 1e33) <= 1e-6


@torch.no_grad()
def test_nan_and_empty_rows_stay_alone(network):
    cells = random_rows(4, 4)
    good = network.predict_all(cells)
    cells[1, 2, 1, 0], cells[2] = torch.nan, 0
    found = network.predict_all(cells)
    for before, after in zip(good, found, strict=True):
        torch.testing.assert_close(before[[0, 3]], after[[0, 3]])
        assert torch.isfinite(after[2]).all()
    assert torch.isnan(found[0][1]).any()


@torch.no_grad()
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_shapes(network, rows):
    final, rate, stability = network.predict_all(random_rows(rows, 0))
    assert final.shape == (rows, 4, 2, 3) and rate.shape == stability.shape == (rows,)


@torch.no_grad()
@pytest.mark.parametrize("gate", [False, True])
def test_matrices_reproduce_the_result(network, gate):
    network.gate_stable = gate
    cells = random_rows(1000, 6)
    density, flux, rate = network.predict_WhiskyTHC(cells)
    by_hand = torch.cat(
        [
            torch.einsum("niajb,ncjb->ncia", flux, cells[:, :3]),
            torch.einsum("niajb,njb->nia", density, cells[:, 3])[:, None],
        ],
        1,
    )
    final, rate_all, stability = network.predict_all(cells)
    assert ((by_hand - final).abs().amax((1, 2, 3)) / cells[:, 3].sum((1, 2))).max() <= 1e-5
    assert torch.equal(rate, rate_all) and (rate[stability > 0.5] == 0).all()
    assert not gate or torch.equal(final[stability > 0.5], cells[stability > 0.5])


@torch.no_grad()
@pytest.mark.parametrize("name", ["physical", "stochastic", "stochastic sectors"])
def test_guaranteed_states_are_physical(name):
    network = build(CONFIGS[name], seed=1).eval()
    for parameter in network.backbone.matrix_heads.parameters():
        parameter.mul_(10)
    cells = random_rows(5000, 7)
    found = law_violations(network.predict_all(cells)[0], cells)
    assert found["negative_density_share"] == 0 and found["spacelike_share"] == 0
    assert found["eln_violation"] <= 1e-5 and found["trace_violation"] <= 1e-5


@torch.no_grad()
def test_direct_and_matrix_repair_are_one_map():
    cells, finals = random_rows(500, 8), []
    for mode in ("direct", "ymatrix"):
        torch.manual_seed(0)
        finals.append(build(YMatrixConfig(lepton_number=mode, gate_stable=False)).eval().predict_all(cells)[0])
    assert torch.equal(*finals)


@pytest.mark.parametrize("name", ["gram", "closure", "physical", "stochastic", "averaged"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_network_is_the_same(name, tmp_path):
    network = build(CONFIGS[name]).eval()
    torch.jit.script(network).save(tmp_path / "network.pt")
    loaded, cells = torch.jit.load(tmp_path / "network.pt"), random_rows(50, 0)
    with torch.no_grad():
        for ours, theirs in zip(network.predict_all(cells), loaded.predict_all(cells), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        assert len(loaded.predict_WhiskyTHC(cells)) == 3 and loaded.predict_stability(cells[:1]).shape == (1,)


def test_missing_multipliers_have_defaults():
    assert FlavorTrain().multipliers() == {**dict.fromkeys(TASKS, 1.0), "unphysical": 10.0}


def test_the_truth_costs_nothing():
    cells = random_rows(100, 0)
    total, rate = cells[:, 3].sum((1, 2)), torch.logspace(6, 12, 100)

    class Truth(torch.nn.Module):
        def forward(self, f4):
            logit = torch.where(torch.arange(200) < 100, -20.0, 20.0)
            return f4.clone(), torch.cat([log_rate(rate, total), torch.zeros(100)]), logit

    ones = torch.ones(100)
    batch = {
        "asymptotic": {"f4_initial": cells, "f4_final": cells, "growthrate": rate, "stable": 0 * ones},
        "stable": {"f4_initial": cells, "stable": ones, "has_final": ones},
    }
    terms = make_loss_terms(FlavorTrain().multipliers())(Truth(), batch)
    assert float(terms["growthrate"]) <= 1e-10 and float(terms["stable"]) < 1e-3 and float(terms["loss"]) < 1e-3
    assert float(rate_loss(log_rate(rate, total), rate, total)) <= 1e-10
    assert float(stability_loss(torch.tensor([9.0, -9.0]), torch.tensor([1.0, 0.0]))) < 1e-3


def test_losses_are_finite_with_gradients_on_trivial_cells(network):
    network.train()
    still = torch.from_numpy(zero_flux_cells(np.random.default_rng(0), 64)).float()
    single = torch.from_numpy(one_flavor_cells(np.random.default_rng(0), 64)).float()
    cells, ones = torch.cat([still, single]), torch.ones(128)
    batch = {
        "asymptotic": {"f4_initial": cells, "f4_final": cells, "growthrate": 0 * ones, "stable": 0 * ones},
        "stable": {"f4_initial": cells, "stable": ones, "has_final": ones},
    }
    terms = make_loss_terms(FlavorTrain().multipliers())(network, batch)
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_unlabelled_final_states_do_not_teach(network):
    network.eval()
    cells, ones = random_rows(32, 1), torch.ones(32)
    moving = {"f4_initial": cells, "f4_final": cells, "growthrate": 1e9 * ones, "stable": 0 * ones}
    terms = [
        make_loss_terms(FlavorTrain().multipliers())(
            network,
            {"asymptotic": moving, "stable": {"f4_initial": cells, "stable": 0 * ones, "has_final": known * ones}},
        )
        for known in (0.0, 1.0)
    ]
    assert float(terms[0]["ndens"].detach()) < float(terms[1]["ndens"].detach())


def test_copies_of_a_cell_are_all_different():
    from thesis_surrogates.flavor.data import permutation_copies

    copies = permutation_copies({"f4_initial": random_rows(1, 0)})["f4_initial"]
    assert len(copies) == 12
    assert all(not torch.equal(copies[i], copies[j]) for i, j in itertools.combinations(range(12), 2))
