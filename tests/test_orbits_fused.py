"""The compiled rollout against PyTorch: every feature layer with every head, every activation, and what goes wrong."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thesis_surrogates.core.models import ACTIVATIONS
from thesis_surrogates.core.plan import describe
from thesis_surrogates.core.training import fit
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.features import FEATURES
from thesis_surrogates.orbits.fused import (
    GraphlessLoss,
    block_of,
    find_obstacle,
    loss_and_gradient,
    roll_out_compiled,
)
from thesis_surrogates.orbits.heads import HEADS, VectorHead
from thesis_surrogates.orbits.losses import LOSSES, rollout_loss
from thesis_surrogates.orbits.models import NeuralField, NeuralODEConfig
from thesis_surrogates.orbits.networks.compiled.path_losses import COMPILED_LOSSES
from thesis_surrogates.orbits.rollouts import compare_paths
from thesis_surrogates.orbits.solvers import solve
from thesis_surrogates.orbits.training import OrbitsTrain, make_update, plan

pytestmark = pytest.mark.timeout(1200)  # the first test of each precision compiles, on a busy machine for minutes
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
COVERED = [
    name
    for name in FEATURES
    if name
    not in ("sph_4D_rinv_vel_harmonics", "sph_4D_rinv_vel_logra", "sph_4D_rinv_vel_loga_energy", "sph_4D_rinv_vel_a_e")
]


def make_field(dimensions: int, dtype: torch.dtype = torch.float64, width: int = 4, **model: Any) -> NeuralField:
    torch.manual_seed(1)
    field = NeuralField(NeuralODEConfig(**{"width": width, **model}), dimensions).to(dtype)
    field.scale.fill_(0.3)
    return field


def make_windows(dimensions: int, rows: int, length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Windows of nearly circular orbits, each with its own times, beside states that no field meets."""
    generator = torch.Generator().manual_seed(2)
    angle, tilt = 6 * torch.rand(rows, generator=generator), torch.rand(rows, generator=generator)
    r = torch.stack([angle.cos(), angle.sin(), 0.3 * tilt], -1) * (1.5 + tilt[:, None])
    v = torch.stack([0.2 * angle.cos() - 0.7 * angle.sin(), 0.7 * angle.cos() + 0.2 * angle.sin(), 0.2 - tilt], -1)
    start = torch.cat([r[:, :dimensions], v[:, :dimensions]], -1)
    time = 0.2 * torch.rand(rows, length, generator=generator).cumsum(1)
    state = start[:, None] + 0.5 * torch.randn(rows, length, 2 * dimensions, generator=generator)
    state[:, 0] = start
    return {"time": time.to(dtype), "state": state.to(dtype)}


def squares(path: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": (path - batch["state"]).square().sum()}


def difference(field: NeuralField, batch: dict[str, Tensor], loss: Any = squares) -> float:
    """Largest relative difference of a loss and of its gradients between the two ways."""
    assert find_obstacle(field) is None
    usual = loss(solve(field.reduced, batch["state"][:, 0], batch["time"], "rk4").states, batch)["loss"]
    expected = torch.autograd.grad(usual, list(field.parameters()))
    terms, found = loss_and_gradient(field, batch, loss)
    size = max(float(gradient.abs().max()) for gradient in expected)
    worst = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / size
    return max(worst, abs(float(terms["loss"].detach() / usual.detach()) - 1))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("features", COVERED)
def test_every_layer_with_every_head(features: str, dimensions: int) -> None:
    batch = make_windows(dimensions, rows=3, length=3)
    for head in HEADS:
        assert difference(make_field(dimensions, features=features, head=head), batch) < 1e-10, head


@pytest.mark.parametrize("dtype", LIMITS)
def test_every_activation_and_head_in_both_precisions(dtype: torch.dtype) -> None:
    for activation, dimensions in product(ACTIVATIONS, (2, 3)):
        field = make_field(dimensions, dtype, activation=activation, depth=3, head="mlp_4D_signed")
        batch = make_windows(dimensions, rows=5, length=4, dtype=dtype)
        assert difference(field, batch) < LIMITS[dtype], (activation, dimensions)
    for head, features in product(HEADS, ("sph_4D_rinv_vel", "invariants")):
        field = make_field(3, dtype, features=features, head=head)
        assert difference(field, make_windows(3, rows=3, length=3, dtype=dtype)) < LIMITS[dtype], (head, features)


def test_parameters_of_the_heads_and_the_original_plane() -> None:
    clip = {"head": "mlp_4D_logmag_unit_tanh_softplus_clip", "head_clip": 0.05, "head_scale": 2.0}
    for model in (clip, {"planar": "original"}, {"planar": "original", "head": "mlp_simple"}):
        assert difference(make_field(3, **model), make_windows(3, rows=3, length=3)) < 1e-10, model


@pytest.mark.parametrize("rows, length, width, depth", [(130, 3, 3, 1), (65, 2, 70, 2), (1, 6, 5, 4)])
def test_any_number_of_rows_samples_and_neurons(rows: int, length: int, width: int, depth: int) -> None:
    assert difference(make_field(2, width=width, depth=depth), make_windows(2, rows, length)) < 1e-10


def test_blocks_are_as_full_as_they_can_be() -> None:
    assert [block_of(rows) for rows in (1, 128, 129, 200, 256)] == [8, 128, 72, 104, 128]
    assert all(0 < block_of(rows) <= 128 for rows in range(1, 400))


def masked(path: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A loss that leaves out what is padding, and rows that diverge."""
    real = torch.isfinite(batch["state"]).all(-1, keepdim=True) & torch.isfinite(path).all((1, 2))[:, None, None]
    return {"loss": torch.where(real, path - torch.where(real, batch["state"], 0.0), 0.0).square().sum()}


def test_ragged_windows() -> None:
    batch = make_windows(2, rows=6, length=5)
    for row in range(1, 5):
        batch["state"][row, row + 1 :] = torch.nan
        batch["time"][row, row + 1 :] = batch["time"][row, row] + 1e-6 * torch.arange(1, 5 - row)
    assert difference(make_field(2), batch, masked) < 1e-10


def test_a_diverged_row_leaves_the_gradient_of_the_others_alone() -> None:
    field, batch = make_field(2, head="mlp_4D_logmag_exp"), make_windows(2, rows=6, length=4)
    good = {name: values[[0, 1, 3, 4, 5]] for name, values in batch.items()}
    batch["time"][2] *= 1e200
    assert not torch.isfinite(roll_out_compiled(field, batch["state"][:, 0], batch["time"])[2]).all()
    terms, found = loss_and_gradient(field, batch, masked)
    expected_terms, expected = loss_and_gradient(field, good, masked)
    assert float(terms["loss"].detach()) == pytest.approx(float(expected_terms["loss"].detach()), rel=1e-13)
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(found, expected, strict=True))
    _, spoiled = loss_and_gradient(field, batch, squares)  # a loss that keeps the row is no number, as it always was
    assert not all(torch.isfinite(gradient).all() for gradient in spoiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COMPILED_LOSSES)
def test_a_loss_without_a_graph_is_the_same_loss(name: str, dtype: torch.dtype) -> None:
    """Ragged windows, and a row that flies off, are left out and counted alike."""
    field, batch = make_field(2, dtype, head="mlp_4D_logmag_exp"), make_windows(2, rows=9, length=4, dtype=dtype)
    batch["state"][1, 2:] = torch.nan
    batch["time"][4] *= 1e30

    def with_graph(path: Tensor, windows: dict[str, Tensor]) -> dict[str, Tensor]:
        return LOSSES[name](compare_paths(path, windows["state"], windows["time"], field.reduced), {"nmse_weight": 0.3})

    expected_terms, expected = loss_and_gradient(field, batch, with_graph)
    terms, found = loss_and_gradient(field, batch, GraphlessLoss(name, 0.3))
    assert list(terms) == list(expected_terms) and float(terms["diverged_rows"]) == 1
    limit = 1e-11 if dtype == torch.float64 else 1e-4
    for key, value in terms.items():
        assert float(value) == pytest.approx(float(expected_terms[key].detach()), rel=limit)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=limit, atol=limit * float(other.abs().max()))


def test_what_is_not_covered_is_differentiated_by_pytorch() -> None:
    class Mine(VectorHead):
        pass

    mine = make_field(2)
    mine.head = Mine(formula="o", magnitude="signed")
    fields = {
        "harmonics": make_field(2, features="sph_4D_rinv_vel_harmonics"),
        "log a": make_field(2, features="sph_4D_rinv_vel_logra"),
        "behind the last layer": make_field(2, final_activation="tanh"),
        "Mine": mine,
    }
    batch = make_windows(2, rows=3, length=3)
    for word, field in fields.items():
        assert word in str(find_obstacle(field))
        assert all(torch.isfinite(gradient).all() for gradient in loss_and_gradient(field, batch, squares)[1])
        with pytest.raises(ValueError, match=f"no compiled rollout: .*{word}"):
            roll_out_compiled(field, batch["state"][:, 0], batch["time"])


@pytest.fixture(scope="module")
def orbits(tmp_path_factory: pytest.TempPathFactory) -> tuple[OrbitsData, Path]:
    sets = {"train_set": "complex_TBP_planar_6_train", "test_set": "complex_TBP_planar_3_test"}
    config, path = OrbitsData(**sets, points=90), tmp_path_factory.mktemp("orbits") / "orbits.h5"
    make_data(config, path)
    return config, path


def train_briefly(orbits: tuple[OrbitsData, Path], folder: Path | None, step: str, **model: Any) -> tuple[Any, str]:
    """Weights after two phases, paused wherever a checkpoint allows it, and the record's words for the loop."""
    data, config = load_data(*orbits), NeuralODEConfig(width=8, **model)
    lengths = {"steps_strategy": [12, 12], "segment_length_strategy": [4, 9], "validate_every": 6}
    train, status = OrbitsTrain(step=step, **lengths), "paused"  # type: ignore[arg-type]
    while status == "paused":
        torch.manual_seed(0)
        field = NeuralField(config, 2)
        todo = plan(field, data, config, train, seed=1)
        budget = None if folder is None else 0.01
        status = fit(field, todo, seed=1, train=train, checkpoints=folder, budget_seconds=budget).status
    return torch.cat([parameter.detach().ravel() for parameter in field.parameters()]), describe(todo)


def test_training_takes_the_same_steps_and_resumes_exactly(orbits: tuple[OrbitsData, Path], tmp_path: Path) -> None:
    usual, words = train_briefly(orbits, None, "autograd")
    fused, fused_words = train_briefly(orbits, None, "fused")
    assert "compiled" in fused_words and "compiled" not in words
    assert torch.allclose(fused, usual, atol=2e-4) and not torch.equal(fused, usual)
    assert torch.equal(fused, train_briefly(orbits, None, "fused")[0])
    assert torch.equal(fused, train_briefly(orbits, tmp_path / "run", "fused")[0])


def test_a_training_that_cannot_be_fused_says_so(orbits: tuple[OrbitsData, Path]) -> None:
    model = {"features": "sph_4D_rinv_vel_harmonics"}
    fused, words = train_briefly(orbits, None, "fused", **model)
    assert "not compiled: it has no feature 'harmonics'" in words
    assert torch.equal(fused, train_briefly(orbits, None, "autograd", **model)[0])


def test_the_step_is_no_part_of_older_identities() -> None:
    assert "step" not in OrbitsTrain().model_dump(mode="json")
    assert OrbitsTrain(step="fused").model_dump(mode="json")["step"] == "fused"
    assert np.isfinite(OrbitsTrain(step="fused").epochs)


@pytest.mark.parametrize("other", [{"solver": "tsit5"}, {"gradient": "adjoint"}])
def test_another_solver_or_gradient_is_not_compiled_and_says_so(other):
    train, field = OrbitsTrain(step="fused", **other), NeuralField(NeuralODEConfig(width=8), 2)
    usual = rollout_loss(train.loss, train.weights, train.flight)
    update = make_update(field, usual, train, train.optimizer)
    assert update.loss_and_gradients is None
    (value,) = other.values()
    assert value in update.loss_terms.description and "not compiled" in update.loss_terms.description
