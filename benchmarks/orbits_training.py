"""What a training step of a neural ODE costs: compiled, by PyTorch's gradients, and by the solvers of others.

    python benchmarks/orbits_training.py [--length 4 18] [--blocks 7] [--seconds 1] [--targets 5 1 --limit 240]

The ways take turns in one process, on one thread: each makes steps for so many seconds of processor time, block after
block, and medians over the blocks are given, with their ratios to the first of them that is there. All train the same
network (two layers of 64, the same weights) on the same windows of ten orbits, with the same loss, and move the weights
with Adam. Two fields are timed: as it is built, and after a training, where paths are smooth and adaptive solvers take
fewer steps. Compiling is timed apart. The floor is the arithmetic of the network's products alone, at the speed of one
product of that size. `jax`, `diffrax`, `equinox` and `optax`, or `torchdiffeq`, are used where they are installed; they
solve adaptively, as such studies do (Tsit5 and dopri5, rtol 1e-6, atol 1e-8). With `--targets` each way then trains on
a hundred orbits until its error on unseen ones is below each target, in percent, at the rate of the older recipe; the
last row is the recipe of the suite `goals`. Only steps count as time, and at most `--limit` seconds are spent. Makes
its dataset in data/, and writes outputs/benchmarks/orbits_training.json.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import copy
import importlib.util
import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import write_result
from torch import nn

from thesis_surrogates.core.data import Data, TensorSource
from thesis_surrogates.core.soap import Soap
from thesis_surrogates.core.training import fit
from thesis_surrogates.orbits.data import load_data
from thesis_surrogates.orbits.kepler import two_body_acceleration
from thesis_surrogates.orbits.losses import rollout_loss
from thesis_surrogates.orbits.metrics import acceleration_error
from thesis_surrogates.orbits.models import NeuralField, NeuralODEConfig
from thesis_surrogates.orbits.training import OrbitsTrain, plan
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.registry import get_system, resolve

RTOL, ATOL, LEARNING_RATE = 1e-6, 1e-8, 1e-4  # a small rate: the field stays the one that is timed


@dataclass
class Step:
    """A training step, and the weights that it has reached."""

    move: Callable[[], float]
    weights: Callable[[], list[Any]]

    def __call__(self) -> float:
        return self.move()


def installed(*names: str) -> bool:
    """Whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def trained_field(config: NeuralODEConfig, data: Data, steps: int) -> NeuralField:
    """The field after a training with the compiled step; with 0 steps as it is built, with its scale."""
    torch.manual_seed(0)
    field = NeuralField(config, 2)
    train = OrbitsTrain(
        steps_strategy=[max(steps, 1)],
        segment_length_strategy=[4],
        lr_strategy=[2e-3],
        step="fused",
        validate_every=500,
    )
    todo = plan(field, data, config, train, seed=0)
    if steps:
        fit(field, todo, seed=0, train=train)
    return field


class Windows:
    """Full batches of windows, in the order of a training; of another size each would be compiled anew."""

    def __init__(self, field: NeuralField, data: Data, config: NeuralODEConfig, length: int) -> None:
        train = OrbitsTrain(segment_length_strategy=[length])
        source = plan(copy.deepcopy(field), data, config, train, seed=0).phases[0].source
        assert isinstance(source, TensorSource)
        self.rows, self.batches = min(source.size, source.batch_size), source.batches()

    def next(self) -> dict[str, torch.Tensor]:
        """Another batch."""
        return next(batch for batch in self.batches if len(batch["time"]) == self.rows)


def optimizer_of(field: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(field.parameters(), rate, fused=True)


def fused_step(field: NeuralField, windows: Windows, config: NeuralODEConfig, rate: float, goals: bool = False) -> Step:
    """The compiled step, through the update that a training makes; with `goals` loss and optimizer of that suite."""
    from thesis_surrogates.orbits.training import make_update

    field = copy.deepcopy(field)
    train = OrbitsTrain(step="fused", loss="percent_of_no_force") if goals else OrbitsTrain(step="fused")
    update = make_update(field, rollout_loss(train.loss, train.weights), train, train.optimizer)
    assert update.loss_and_gradients is not None
    parameters = list(field.parameters())
    optimizer = Soap(parameters, lr=rate) if goals else optimizer_of(field, rate)

    def step() -> float:
        terms, gradients = update.loss_and_gradients(field, windows.next(), parameters)  # type: ignore[misc]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return float(terms["loss"].detach())

    return Step(step, lambda: [parameter.detach() for parameter in parameters])


def autograd_step(field: NeuralField, windows: Windows, config: NeuralODEConfig, rate: float) -> Step:
    """The usual step."""
    field, train = copy.deepcopy(field), OrbitsTrain()
    loss, optimizer = rollout_loss(train.loss, train.weights), optimizer_of(field, rate)

    def step() -> float:
        optimizer.zero_grad()
        value = loss(field, windows.next())["loss"]
        value.backward()
        optimizer.step()
        return float(value.detach())

    return Step(step, lambda: [parameter.detach() for parameter in field.parameters()])


def torchdiffeq_step(field: NeuralField, windows: Windows, config: NeuralODEConfig, rate: float) -> Step:
    """dopri5 with one clock for the batch: each row's time is scaled to that of the longest."""
    from torchdiffeq import odeint

    field = copy.deepcopy(field)
    optimizer = optimizer_of(field, rate)

    def step() -> float:
        batch = windows.next()
        optimizer.zero_grad()
        span = batch["time"][:, -1:]
        clock = batch["time"][0] / batch["time"][0, -1]
        path = odeint(
            lambda t, y: span * field.reduced(y), batch["state"][:, 0], clock, rtol=RTOL, atol=ATOL, method="dopri5"
        )
        value = percent_plus_nmse(torch, path.transpose(0, 1), batch["state"])
        value.backward()
        optimizer.step()
        return float(value.detach())

    return Step(step, lambda: [parameter.detach() for parameter in field.parameters()])


def percent_plus_nmse(xp: Any, path: Any, true: Any) -> Any:
    """The default loss, for torch and for jax."""
    difference, true = (path - true)[:, 1:], true[:, 1:]
    length = xp.linalg.norm(true, **({"dim": -1} if xp is torch else {"axis": -1}))
    miss = xp.linalg.norm(difference, **({"dim": -1} if xp is torch else {"axis": -1}))
    ratio = (difference**2).mean() / ((true**2).mean() + 1e-8)
    return 100 * (miss / xp.clip(length, 1e-8)).mean() + 100 * xp.sqrt(ratio + 1e-8)


def diffrax_step(field: NeuralField, windows: Windows, config: NeuralODEConfig, rate: float) -> Step:
    """Tsit5 with a clock for each row, jitted as one function with loss, gradient and Adam."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import optax

    activations = {"leaky_relu": jax.nn.leaky_relu, "silu": jax.nn.silu, "tanh": jnp.tanh}
    activate, scale = activations[config.activation], float(field.scale)
    weights = [jnp.asarray(parameter.detach().numpy()) for parameter in field.parameters()]

    def derivative(t: Any, y: Any, own: Any) -> Any:
        inverse = jax.lax.rsqrt((y[:2] ** 2).sum() + 1e-12)
        h = jnp.concatenate([inverse[None], y[:2] * inverse, y[2:]])
        for k in range(0, len(own) - 2, 2):
            h = activate(own[k] @ h + own[k + 1])
        o = own[-2] @ h + own[-1]
        direction = o[1:] * jax.lax.rsqrt((o[1:] ** 2).sum() + 1e-12)
        return jnp.concatenate([y[2:], scale * jnp.exp(o[0]) * direction])

    def roll(own: Any, time: Any, start: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(derivative), diffrax.Tsit5(), time[0], time[-1], None, start, own,
            saveat=diffrax.SaveAt(ts=time), stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            max_steps=4096,
        ).ys  # fmt: skip

    def loss(own: Any, time: Any, state: Any) -> Any:
        return percent_plus_nmse(jnp, jax.vmap(roll, (None, 0, 0))(own, time, state[:, 0]), state)

    optimizer = optax.adam(rate)
    memory = {"weights": weights, "state": optimizer.init(weights)}

    @jax.jit
    def move(own: Any, state: Any, time: Any, path: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(own, time, path)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(own, change), state, value

    def step() -> float:
        batch = windows.next()
        time_, path = jnp.asarray(batch["time"].numpy()), jnp.asarray(batch["state"].numpy())
        memory["weights"], memory["state"], value = move(memory["weights"], memory["state"], time_, path)
        return float(value)

    return Step(step, lambda: [torch.from_numpy(np.array(one)) for one in memory["weights"]])


WAYS: dict[str, tuple[Callable[..., Step], tuple[str, ...]]] = {
    "fused": (fused_step, ()),
    "autograd": (autograd_step, ()),
    "diffrax": (diffrax_step, ("jax", "diffrax", "optax")),
    "torchdiffeq": (torchdiffeq_step, ("torchdiffeq",)),
}


def floor_seconds(rows: int, length: int, width: int = 64, features: int = 5, outputs: int = 3) -> float:
    """Seconds of the products of the network alone, forwards and back, without computing anything again."""
    a, b = np.ones((64, width), np.float32), np.ones((width, width), np.float32)
    times = []
    for _ in range(50):
        began = time.thread_time()
        for _ in range(100):
            np.dot(a, b)
        times.append((time.thread_time() - began) / 100)
    one = 2 * (features * width + width * width + width * outputs)
    return 3 * one * rows * 4 * (length - 1) * min(times) / (2 * 64 * width * width)


def take_turns(steps: dict[str, Step], blocks: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of processor time of each way, block after block."""
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(blocks):
        for name, step in steps.items():
            began, done = time.process_time(), 0
            while time.process_time() - began < seconds or done < 2:
                step()
                done += 1
            speeds[name].append(done / (time.process_time() - began))
    return speeds


def time_case(field: NeuralField, data: Data, config: NeuralODEConfig, length: int, options: Any) -> dict[str, Any]:
    """Speeds of all ways for one field and one length of windows."""
    steps, found = {}, {}
    for name, (make, needs) in WAYS.items():
        if installed(*needs):
            windows = Windows(field, data, config, length)
            steps[name] = make(field, windows, config, LEARNING_RATE)
            began = time.process_time()
            first = steps[name]()
            found[name] = {"first_step_s": time.process_time() - began, "first_loss": first}
    speeds = take_turns(steps, options.blocks, options.seconds)
    for name, values in speeds.items():
        found[name] |= {"steps_per_s": statistics.median(values), "range": [min(values), max(values)]}
        for other in ("autograd", "diffrax", "torchdiffeq"):
            if other in speeds and other != name:
                ratios = [own / theirs for own, theirs in zip(values, speeds[other], strict=True)]
                found[name][f"over_{other}"] = statistics.median(ratios)
    rows = Windows(field, data, config, length).rows
    return {"rows": rows, "floor_steps_per_s": 1 / floor_seconds(rows, length), "ways": found}


def train_until(step: Step, field: NeuralField, data: Data, targets: list[float], limit: float) -> dict[str, float]:
    """Seconds of steps, after the first one, until the error on unseen orbits is below a target; infinity if never."""
    orbits, judged = data.splits["test"], copy.deepcopy(field)
    states = orbits["state"][orbits["mask"]]
    exact, spent = two_body_acceleration(states[:, :3]), 0.0
    found: dict[str, float] = {}
    step()  # compiles
    while len(found) < len(targets) and spent < limit:
        began = time.process_time()
        while time.process_time() - began < max(0.2, 0.05 * spent):
            step()
        spent += time.process_time() - began
        with torch.no_grad():
            for parameter, weight in zip(judged.parameters(), step.weights(), strict=True):
                parameter.copy_(weight)
            error = float(acceleration_error(exact, judged.accelerations_at(orbits).to(exact.dtype)).mean())
        found |= {f"{target:g} %": spent for target in targets if error < target and f"{target:g} %" not in found}
    return {**{f"{target:g} %": math.inf for target in targets}, **found}


def time_targets(config: NeuralODEConfig, options: Any) -> dict[str, dict[str, float]]:
    """Seconds to each target: the older recipe by three implementations, and the recipe of the suite `goals`."""
    data = load_orbits("complex_TBP_planar_100_train")
    ways = {name: way for name, way in WAYS.items() if name in ("fused", "autograd", "diffrax") and installed(*way[1])}
    found = {}
    for name, (make, _) in ways.items():
        field = trained_field(config, data, 0)
        step = make(field, Windows(field, data, config, 18), config, 1e-3)
        found[name] = train_until(step, field, data, options.targets, options.limit)
        print(f"  {name:12} {found[name]}", flush=True)
    best = NeuralODEConfig(features="sph_4D_rinv_vel_logr_logv")
    field = trained_field(best, data, 0)
    step = fused_step(field, Windows(field, data, best, 2), best, 5e-3, goals=True)
    found["goals"] = train_until(step, field, data, options.targets, options.limit)
    print(f"  {'goals':12} {found['goals']}", flush=True)
    return found


def load_orbits(train_set: str) -> Data:
    """Orbits of a set, all of them for training."""
    run = resolve({"system": "orbits", "model": "neural_ode", "data": {"train_set": train_set}})
    run = resolve({**run.model_dump(mode="json"), "data": {**run.data.model_dump(), "validation_fraction": 0}})
    return load_data(run.data, ensure_dataset(get_system("orbits"), run.data, Path("data")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, nargs="+", default=[4, 18], help="samples in a window")
    parser.add_argument("--activation", default="leaky_relu", choices=["leaky_relu", "silu", "tanh"])
    parser.add_argument("--blocks", type=int, default=7, help="turns of each way")
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of a turn")
    parser.add_argument("--trained", type=int, default=2000, help="steps before the second field is timed")
    parser.add_argument("--targets", type=float, nargs="*", default=[], help="errors (%%) to be reached")
    parser.add_argument("--limit", type=float, default=240.0, help="most processor time for the targets (s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_orbits("complex_TBP_planar_10_train")
    config = NeuralODEConfig(activation=options.activation)
    found: dict[str, Any] = {"torch": torch.__version__, **vars(options), "cases": {}}
    for age, steps in (("early", 0), ("trained", options.trained)):
        field = trained_field(config, data, steps)
        for length in options.length:
            case = time_case(field, data, config, length, options)
            found["cases"][f"{age}, L={length}"] = case
            print(f"{age}, L={length}, {case['rows']} rows: floor {case['floor_steps_per_s']:.0f} steps/s", flush=True)
            for name, one in case["ways"].items():
                ratios = ", ".join(f"{value:.2f} x {key[5:]}" for key, value in one.items() if key.startswith("over_"))
                print(
                    f"  {name:12} {one['steps_per_s']:8.1f} steps/s  first step {one['first_step_s']:6.2f} s, "
                    f"loss {one['first_loss']:.4f}; {ratios}",
                    flush=True,
                )
    if options.targets:
        found["seconds_to_targets"] = time_targets(config, options)
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_result("orbits_training", found)


if __name__ == "__main__":
    main()
