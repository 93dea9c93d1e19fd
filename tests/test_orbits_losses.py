"""Guards of what a loss sees: the case by hand, rows that diverge, weights in the configuration, every name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thesis_surrogates.core.config import OptimizerConfig, TrainConfig, check, config_hash
from thesis_surrogates.core.data import Data, TensorSource
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.plan import Phase, Plan, Update, mean_loss
from thesis_surrogates.core.training import TrainingDiverged, fit
from thesis_surrogates.orbits.baselines import exact_field, no_force
from thesis_surrogates.orbits.data import OrbitsData, load_data, make_data
from thesis_surrogates.orbits.losses import LOSSES, NOT_BUILT, rollout_loss
from thesis_surrogates.orbits.models import NeuralODEConfig
from thesis_surrogates.orbits.rollouts import compare_paths
from thesis_surrogates.orbits.solvers import solve
from thesis_surrogates.orbits.training import OrbitsTrain, judge_divergence, plan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    config = OrbitsData(train_set="complex_TBP_planar_6_train", test_set="complex_TBP_planar_2_test", points=60)
    path = tmp_path_factory.mktemp("losses") / "o.h5"
    make_data(config, path)
    return load_data(config, path)


class Explosive(nn.Module):
    """Free motion with a small spring, and no end to the force on whoever starts beyond x = 5."""

    def __init__(self) -> None:
        super().__init__()
        self.spring = nn.Linear(2, 2, bias=False)

    def reduced(self, state: Tensor) -> Tensor:
        far = torch.exp(100 * (state[..., :1] - 5)) - math.exp(-500)
        return torch.cat([state[..., 2:], self.spring(state[..., :2]) + far], -1)

    def acceleration(self, state: Tensor) -> Tensor:
        return torch.cat([self.reduced(state[..., [0, 1, 3, 4]])[..., 2:], state[..., :1] * 0], -1)


def windows(far: list[float]) -> dict[str, Tensor]:
    start = torch.tensor([[x, 0.5, 0.1, -0.2] for x in far])
    time = torch.linspace(0, 1, 6).expand(len(far), 6)
    return {"time": time, "state": solve(lambda y: torch.cat([y[:, 2:], -y[:, :2]], 1), start, time, "rk4").states}


def test_the_case_by_hand() -> None:
    true = torch.tensor([[[1.0, 0, 0, 0, 1, 0], [0, 1, 0, -1, 0, 0], [-1, 0, 0, 0, -1, 0]]], dtype=torch.float64)
    predicted = true.clone()
    predicted[0, 0] += 5
    predicted[0, 1, 0] += 0.1
    predicted[0, 2, 4] += 0.2
    rollout = compare_paths(predicted, true, torch.tensor([[0.0, 1.0, 2.0]]), no_force)
    sum_of_both = LOSSES["percent_error_plus_nmse"]
    assert sum_of_both(rollout)["loss"].item() == pytest.approx(21.786945910, abs=1e-8)
    assert sum_of_both(rollout, {"nmse_weight": 10.0})["loss"].item() == pytest.approx(122.410043637, abs=1e-8)
    assert sum_of_both(rollout)["nrmse_percent"].item() == pytest.approx(11.180344192, abs=1e-8)
    assert LOSSES["percent_error"](rollout)["loss"].item() == pytest.approx(10.606601718, abs=1e-8)
    assert LOSSES["mean_squared_error"](rollout)["loss"].item() == pytest.approx(8.336111111, abs=1e-8)


@pytest.mark.parametrize("gradient", ["steps", "adjoint"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_diverged_row_is_left_out_of_loss_and_gradient_and_counted(name: str, gradient: str) -> None:
    torch.manual_seed(0)
    model, found = Explosive(), []
    loss = rollout_loss(name, {}, {"method": "rk4", "gradient": gradient})
    for far in ([1.0, 9.0, 2.0], [1.0, 2.0]):
        terms = loss(model, windows(far))  # type: ignore[arg-type]
        found.append(
            (terms["loss"], torch.autograd.grad(terms["loss"], model.spring.weight)[0], terms["diverged_rows"])
        )
    assert torch.isfinite(found[1][1]).all()
    assert torch.allclose(found[0][0], found[1][0]) and torch.allclose(found[0][1], found[1][1], rtol=1e-4)
    assert (float(found[0][2]), float(found[1][2])) == (1.0, 0.0)


def test_a_row_of_huge_numbers_has_diverged_too() -> None:
    true = torch.ones(2, 4, 4)
    rollout = compare_paths(true * torch.tensor([1.01, 1e25])[:, None, None], true, true[..., 0], no_force)
    terms = LOSSES["percent_error_plus_nmse"](rollout)
    assert float(terms["diverged_rows"]) == 1 and terms["loss"].item() == pytest.approx(2, rel=1e-3)


def test_nothing_is_learned_where_all_rows_diverge() -> None:
    terms = rollout_loss("percent_error", {})(Explosive(), windows([9.0, 8.0]))  # type: ignore[arg-type]
    assert not torch.isfinite(terms["loss"]) and float(terms["diverged_rows"]) == 2
    terms["loss"].backward()  # the guard of the loop zeroes it


@pytest.mark.parametrize("windows", [100, 1000])
def test_validation_says_so_and_ends_the_training(windows: int) -> None:
    judge_divergence(windows // 100, windows)
    with pytest.warns(UserWarning, match=f"of {windows} validation windows diverge .* count in no mean"):
        judge_divergence(windows // 100 + 1, windows)
    with pytest.warns(UserWarning):
        judge_divergence(windows // 10, windows)
    with pytest.raises(TrainingDiverged, match="lower train.lr_strategy"):
        judge_divergence(windows // 10 + 1, windows)


def test_a_training_goes_on_with_a_row_that_diverges() -> None:
    loss, rows, events = rollout_loss("percent_error", {}), windows([1.0, 9.0, 2.0]), []
    update = Update(loss_terms=loss, optimizer=OptimizerConfig(name="adam", learning_rate=1e-3))  # type: ignore[arg-type]
    phase = Phase(name="only", steps=4, validate_every=2, source=TensorSource(rows, 3, 0), updates=(update,))
    judged = Plan(phases=(phase,), validate=mean_loss(loss, rows))  # type: ignore[arg-type]
    result = fit(Explosive(), judged, seed=0, train=TrainConfig(epochs=2), callbacks=[events.append])
    epochs = [event.metrics for event in events if event.moment == "epoch_end"]
    assert result.status == "done" and math.isfinite(result.best_value)
    assert [epoch["train"]["diverged_rows"] for epoch in epochs] == [2.0, 2.0]
    assert [epoch["validation"]["diverged_rows"] for epoch in epochs] == [1.0, 1.0]
    assert all(math.isfinite(epoch["train"]["loss"]) for epoch in epochs)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_a_network_and_logs_its_parts(name: str, dimensions: int) -> None:
    torch.manual_seed(0)
    plane = "planar" if dimensions == 2 else "nonplanar"
    sets = {"train_set": f"complex_TBP_{plane}_2_train", "test_set": f"complex_TBP_{plane}_2_test"}
    model = NeuralODEConfig(width=4, depth=1).build(OrbitsData(**sets))
    start = torch.randn(5, 2 * dimensions) * 0.3 + 1
    batch = {"time": torch.linspace(0, 0.5, 5).expand(5, 5)}
    batch["state"] = solve(no_force if dimensions == 3 else flat_free, start, batch["time"], "rk4").states
    terms = rollout_loss(name, {})(model, batch)
    terms["loss"].backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.no_grad():
        validated = rollout_loss(name, {})(model, batch)
    assert validated.keys() == terms.keys()
    assert all(torch.allclose(validated[key], terms[key].detach(), rtol=1e-4) for key in terms)


def flat_free(state: Tensor) -> Tensor:
    return torch.cat([state[:, 2:], 0 * state[:, 2:]], 1)


def test_the_exact_field_has_a_floor_in_one_loss_and_not_in_the_other() -> None:
    start = torch.tensor([[1.5, 0, 0, 0, 0.9, 0]], dtype=torch.float64)
    time = torch.linspace(0, 0.09, 4, dtype=torch.float64)
    true = solve(exact_field, start, time, rtol=1e-12, atol=1e-14).states
    rollout = compare_paths(solve(exact_field, start, time, "rk4").states, true, time[None], exact_field)
    free = compare_paths(solve(no_force, start, time, "rk4").states, true, time[None], no_force)
    assert LOSSES["percent_error_plus_nmse"](rollout)["loss"].item() == pytest.approx(0.0100, abs=1e-4)
    assert LOSSES["percent_of_no_force"](rollout)["loss"].item() < 1e-3
    assert LOSSES["percent_of_no_force"](free)["loss"].item() == pytest.approx(100)


def test_weights_stand_in_the_configuration() -> None:
    train = check(OrbitsTrain, {"loss": "mse_with_reg", "l1_weight": 0.0}, "train")
    assert (train.l1_weight, train.l2_weight, train.energy_weight) == (0.0, 1e-4, None)
    assert check(OrbitsTrain, train.model_dump(mode="json"), "train") == train
    for wrong, word in (
        ({"loss": "percent_error", "energy_weight": 1.0}, "has no energy_weight"),
        ({"loss": "percent_error_norm_cr3bp"}, "is left out: it is of the three-body problem"),
        ({"loss": "jacobian_norm", "jacobian_weight": -1.0}, "jacobian_weight"),
        ({"solver": "euler"}, "rk4"),
    ):
        with pytest.raises(ConfigError, match=word):
            check(OrbitsTrain, wrong, "train")
    assert not set(NOT_BUILT) & set(LOSSES)


def test_keys_that_came_later_change_no_identity() -> None:
    run = {"system": "orbits", "model": {"name": "neural_ode"}}
    plain = config_hash({**run, "train": OrbitsTrain().model_dump(mode="json")})
    assert config_hash({**run, "train": OrbitsTrain(nmse_weight=1.0, solver="rk4").model_dump(mode="json")}) == plain
    assert config_hash({**run, "train": OrbitsTrain(solver="tsit5").model_dump(mode="json")}) != plain
    assert {"l1_weight", "solver", "gradient"}.isdisjoint(OrbitsTrain().model_dump(mode="json"))


@pytest.mark.parametrize("options", [{"solver": "tsit5"}, {"solver": "tsit5_fixed", "gradient": "adjoint"}])
def test_training_by_another_solver(data: Data, tmp_path: Path, options: dict[str, str]) -> None:
    torch.manual_seed(0)
    train = OrbitsTrain(steps_strategy=[3], validate_every=3, batch_size=16, **options)  # type: ignore[arg-type]
    config = NeuralODEConfig(width=4, depth=1)
    model = config.build(OrbitsData())
    curriculum = plan(model, data, config, train, 0)
    before = curriculum.validate(model)["loss"]
    result = fit(model, curriculum, seed=0, train=train)
    assert result.best_value < before and curriculum.validate(model)["diverged_rows"] == 0
