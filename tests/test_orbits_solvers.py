"""Guards of the solvers: directions, repeated and single times, rows that fail, gradients, memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thesis_surrogates.orbits.baselines import exact_field
from thesis_surrogates.orbits.kepler import propagate_kepler
from thesis_surrogates.orbits.solvers import solve

METHODS = ("rk4", "tsit5_fixed", "tsit5", "dopri5")
ADAPTIVE = ("tsit5", "dopri5")


def orbits(eccentricity: list[float]) -> Tensor:
    e = torch.tensor(eccentricity, dtype=torch.float64)
    zero = torch.zeros_like(e)
    return torch.stack([1 - e, zero, zero, zero, torch.sqrt((1 + e) / (1 - e)), zero], -1)


def grow(z: Tensor) -> Tensor:
    return z**4


@pytest.mark.parametrize("method", ADAPTIVE)
def test_orbits_close_at_tight_tolerance(method: str) -> None:
    start = orbits(torch.linspace(0, 0.85, 12).tolist())
    solution = solve(exact_field, start, torch.tensor([0.0, 1.0, 2 * np.pi], dtype=torch.float64), method, 1e-10, 1e-12)  # type: ignore[arg-type]
    assert bool(solution.finished.all())
    assert float((solution.states[:, -1] - start).abs().max()) < 1e-6
    assert torch.all(solution.states[..., [2, 5]] == 0)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_against_dop853(method: str) -> None:
    start, time = orbits([0.6]), np.linspace(0, 5, 40)
    judge = solve_ivp(
        lambda t, y: exact_field(torch.from_numpy(y)).numpy(),
        (0, 5),
        start[0].numpy(),
        method="DOP853",
        t_eval=time,
        rtol=1e-12,
        atol=1e-13,
    ).y.T
    found = solve(exact_field, start, torch.from_numpy(time), method, 1e-9, 1e-11).states[0]  # type: ignore[arg-type]
    assert float((found - torch.from_numpy(judge)).abs().max()) < 1e-7


@pytest.mark.parametrize("method", METHODS)
def test_backwards_is_the_way_back(method: str) -> None:
    start, time = orbits([0.0, 0.5]), torch.linspace(0, 2, 81, dtype=torch.float64)
    there = solve(exact_field, start, time, method)  # type: ignore[arg-type]
    both = torch.stack([time.flip(0), time])  # one row goes back, its neighbour on
    mixed = solve(exact_field, torch.stack([there.states[0, -1], start[1]]), both, method)  # type: ignore[arg-type]
    assert bool(mixed.finished.all())
    assert float((mixed.states[0].flip(0) - there.states[0]).abs().max()) < 2e-5
    assert float((mixed.states[1] - there.states[1]).abs().max()) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_repeated_and_single_times(method: str) -> None:
    start = orbits([0.3, 0.3]).requires_grad_()
    time = torch.tensor([[0.0, 0.0, 0.4, 0.7, 0.7, 0.7], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    solution = solve(exact_field, start, time, method)  # type: ignore[arg-type]
    plain = solve(exact_field, start[:1], torch.tensor([0.0, 0.4, 0.7], dtype=torch.float64), method)  # type: ignore[arg-type]
    assert bool(solution.finished.all())
    assert torch.allclose(solution.states[0, [1, 2, 3, 4, 5]], plain.states[0, [0, 1, 2, 2, 2]], atol=1e-13)
    assert torch.equal(solution.states[1], start[1].expand(6, 6)) and int(solution.accepted[1]) == 0
    solution.states.sum().backward()
    assert torch.equal(start.grad[1], torch.full((6,), 6.0, dtype=torch.float64))  # type: ignore[index]
    alone = solve(exact_field, start, time[:, :1], method)  # type: ignore[arg-type]
    assert torch.equal(alone.states[:, 0], start) and alone.finished.tolist() == [True, True]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_finished_means_that_every_state_is_a_number(method: str, sign: float) -> None:
    start, time = torch.tensor([[0.2], [3.0]], dtype=torch.float64), sign * torch.tensor([0.0, 0.5, 1.0]).double()
    solution = solve(lambda z: sign * grow(z), start, time, method)  # type: ignore[arg-type]
    assert solution.finished.tolist() == [True, False]
    assert torch.equal(solution.finished, torch.isfinite(solution.states).all(-1).all(-1))
    assert torch.equal(solution.states[1, 0], start[1]) and bool(torch.isnan(solution.states[1, 2]).all())


@pytest.mark.parametrize("gradient", ["steps", "adjoint"])
@pytest.mark.parametrize("method", METHODS)
def test_a_failed_row_leaves_the_gradient_of_its_neighbours_alone(method: str, gradient: str) -> None:
    layer = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.ones_(layer.weight)
    time = torch.tensor([0.0, 0.5, 1.0]).double()

    def weights(rows: list[float], read: list[int]) -> Tensor:
        start = torch.tensor(rows, dtype=torch.float64)[:, None]
        states = solve(lambda z: layer(z) ** 4, start, time, method, max_steps=100, gradient=gradient).states  # type: ignore[arg-type]
        return torch.autograd.grad(states[read].sum(), layer.weight)[0]

    beside, alone = weights([0.2, 3.0, 0.5, torch.inf], [0, 2]), weights([0.2, 0.5], [0, 1])
    assert torch.isfinite(alone).all() and torch.allclose(beside, alone, rtol=1e-12)


def test_a_rejected_try_stays_out_of_the_gradient() -> None:
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def wall(z: Tensor) -> Tensor:  # no number behind z = 2, where only a step that is too long gets
        return weight * torch.sqrt(2.0 - z)

    solution = solve(wall, torch.tensor([[0.0]]).double(), torch.tensor([0.0, 2.7]).double())
    assert bool(solution.finished.all()) and int(solution.rejected[0]) > 0
    assert torch.isfinite(torch.autograd.grad(solution.states[0, -1, 0], weight)[0])


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(5)), st.sampled_from(ADAPTIVE))
def test_samples_do_not_feel_their_batch(order: list[int], method: str) -> None:
    start = orbits([0.0, 0.2, 0.4, 0.6, 0.8])
    time = torch.stack([torch.linspace(0, 3 + k, 7, dtype=torch.float64) for k in range(5)])
    together = solve(exact_field, start, time, method)  # type: ignore[arg-type]
    shuffled = solve(exact_field, start[order], time[order], method)  # type: ignore[arg-type]
    assert float((together.states[order] - shuffled.states).abs().max()) < 1e-12
    assert torch.equal(together.evaluations[order], shuffled.evaluations)


@pytest.mark.parametrize("method", ["rk4", "tsit5_fixed"])
def test_fixed_methods_take_each_row_at_its_own_times(method: str) -> None:
    start = orbits([0.1])
    slow, fast = torch.linspace(0, 1, 50, dtype=torch.float64), torch.linspace(0, 0.5, 50, dtype=torch.float64)
    both = solve(exact_field, start.expand(2, 6), torch.stack([slow, fast]), method)  # type: ignore[arg-type]
    assert torch.allclose(both.states[1], solve(exact_field, start, fast, method).states[0], atol=1e-14)  # type: ignore[arg-type]
    assert both.accepted.tolist() == [49, 49] and both.rejected.tolist() == [0, 0]


@pytest.mark.parametrize("method, order", [("rk4", 4), ("tsit5_fixed", 5)])
def test_orders_of_convergence(method: str, order: int) -> None:
    start, steps = orbits([0.4]), np.array([40, 80, 160, 320])
    truth = torch.from_numpy(propagate_kepler(start.numpy(), np.array([3.0])))[:, 0]
    errors = [
        float((solve(exact_field, start, torch.linspace(0, 3, n + 1).double(), method).states[:, -1] - truth).norm())  # type: ignore[arg-type]
        for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope + order) < 0.25


def count_calls(field: Callable[[Tensor], Tensor], rows: list[int]) -> Callable[[Tensor], Tensor]:
    def counted(state: Tensor) -> Tensor:
        rows.append(len(state))
        return field(state)

    return counted


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted(method: str) -> None:
    rows: list[int] = []
    start, time = orbits([0.0, 0.7]), torch.linspace(0, 4, 9, dtype=torch.float64)
    with torch.no_grad():
        solution = solve(count_calls(exact_field, rows), start, time, method)  # type: ignore[arg-type]
    assert int(solution.evaluations.sum()) == sum(rows)


@pytest.mark.parametrize(
    "time, method, word",
    [
        (torch.tensor([0.0, 1.0, 0.5]), "rk4", "back and forth"),
        (torch.tensor([0.0, 1.0, 0.5]), "tsit5", "back and forth"),
        (torch.tensor([0.0, torch.nan]), "tsit5", "not finite"),
        (torch.tensor([[0.0, 1.0]]), "tsit5", "need states"),
        (torch.tensor([0.0, 1.0]), "euler", "rk4, tsit5_fixed, tsit5, dopri5"),
    ],
)
def test_bad_arguments(time: Tensor, method: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        solve(exact_field, orbits([0.1, 0.2]), time, method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_adjoint_agrees_with_the_steps(method: str) -> None:
    layer = torch.nn.Linear(2, 2).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.weight)
    start = torch.tensor([[0.5, -0.2], [0.1, 0.3]], dtype=torch.float64, requires_grad=True)
    time = torch.stack([torch.linspace(0, 1, 41), torch.linspace(0, -1, 41)]).double()

    def gradients(gradient: str) -> Tensor:
        states = solve(lambda y: torch.tanh(layer(y)), start, time, method, 1e-9, 1e-11, gradient=gradient).states  # type: ignore[arg-type]
        loss = (states * torch.linspace(1, 2, 41).double()[:, None]).square().sum()  # jumps at every sample
        return torch.cat([g.ravel() for g in torch.autograd.grad(loss, [start, *layer.parameters()])])

    through, back = gradients("steps"), gradients("adjoint")
    assert float((through - back).abs().max() / through.abs().max()) < 1e-4


def test_a_try_writes_the_samples_that_it_reaches_and_no_others() -> None:
    start, places = orbits(torch.linspace(0, 0.8, 50).tolist()), set()
    time = torch.linspace(0, 6.28, 361, dtype=torch.float64)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.is_floating_point() and result.numel() >= 50 * 361 * 6:
                places.add(result.data_ptr())
            return result

    with torch.no_grad(), Watch():
        solve(exact_field, start, time)
    assert len(places) <= 2  # what is returned, and no copy of it in each of the 74 tries
