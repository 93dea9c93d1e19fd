"""What the training loop costs beside a bare PyTorch loop: same model, data, loss, optimizer and clip, in one process.

    python benchmarks/training_loop.py [--only "tracks residual"] [--repeats 5] [--epochs 3]

Two ratios for each model and batch size, medians over repeats in which the loops take turns: `loop` is the speed of the
steps alone, `epoch` that of whole epochs with validation, facts and checkpoints, against a bare loop that has none of
them. Processor time of one thread is measured, so that other work on the machine matters little. A case that is called
`fused` trains by a compiled step; its bare loop is the usual one. For tracks the products of matrices are timed beside
it: no step is faster than they are. Makes its datasets in data/, and writes outputs/benchmarks/training_loop.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thesis_surrogates.core.config import RunConfig
from thesis_surrogates.core.data import TensorSource, ZipSource
from thesis_surrogates.core.optimization import make_optimizer
from thesis_surrogates.core.plan import Event, Phase, Plan
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.core.training import fit
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import new_model
from thesis_surrogates.running.registry import get_system, resolve

TRACKS, FLAVOR = {"n_tracks": 400_000}, {"cells": 20_000}  # of the tracks, 320,000 are trained on: a real epoch
EVENTS = {"train_events": 12_000, "validation_events": 1_000, "test_events": 100}
SHORT = {"segment_length_strategy": [4], "validate_every": 100}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # model, data, train
    "tracks residual 256": ("residual", TRACKS, {"batch_size": 256}),
    "tracks residual 256 fused": ("residual", TRACKS, {"batch_size": 256, "step": "fused"}),
    "tracks mlp 256 fused": ("mlp", TRACKS, {"batch_size": 256, "step": "fused"}),
    "tracks residual 2048 fused": ("residual", TRACKS, {"batch_size": 2048, "step": "fused"}),
    "tracks residual 2048": ("residual", TRACKS, {"batch_size": 2048}),
    "tracks mlp 256": ("mlp", TRACKS, {"batch_size": 256}),
    "flavor ymatrix 256": ("ymatrix", FLAVOR, {"batch_size": 256}),
    "flavor ymatrix 2048": ("ymatrix", FLAVOR, {"batch_size": 2048}),
    "events ae_identity 256": ("ae_identity", EVENTS, {"batch_size": 256}),
    "events ae_identity 2048": ("ae_identity", EVENTS, {"batch_size": 2048}),
    "orbits neural_ode 256": (
        "neural_ode",
        {"train_set": "complex_TBP_planar_100_train"},
        {"batch_size": 256, **SHORT},
    ),
}


def prepare(name: str, epochs: int, bare: bool = False) -> tuple[RunConfig, nn.Module, Plan]:
    """Configuration, model and plan of a case, with one epoch more than is measured; a bare one is never compiled."""
    system = get_system(name.split()[0])
    model_name, data_keys, train_keys = CASES[name]
    length = {"steps_strategy": [100 * (epochs + 1)]} if system.name == "orbits" else {"epochs": epochs + 1}
    train = {**train_keys, **length, **({"step": "autograd"} if bare and "step" in train_keys else {})}
    values = {"system": system.name, "model": model_name, "data": data_keys, "train": train}
    config = resolve(values)
    data = system.load_data(config.data, ensure_dataset(system, config.data, Path("data")))
    model = new_model(config)
    return config, model, system.plan(model, data, config.model, config.train, seed=0)


def pass_of(source: TensorSource) -> Iterator[dict[str, torch.Tensor]]:
    """Random batches of a source, for ever, picked from its tensors by index."""
    while True:
        for index in torch.randperm(source.size).split(source.batch_size):
            yield {name: tensor[index] for name, tensor in source.tensors.items()}


def bare_batches(source: Any) -> Iterator[Any]:
    """The same for streams side by side."""
    if isinstance(source, ZipSource):
        streams = {name: bare_batches(one) for name, one in source.sources.items()}
        while True:
            yield {name: next(stream) for name, stream in streams.items()}
    assert isinstance(source, TensorSource)
    yield from pass_of(source)


class BareLoop:
    """A loop with nothing in it but the work."""

    def __init__(self, model: nn.Module, phase: Phase) -> None:
        (update,) = phase.updates
        assert update.loss_terms is not None
        self.model, self.phase, self.loss_terms = model.train(), phase, update.loss_terms
        self.optimizer = make_optimizer(update.optimizer, list(model.parameters()))
        self.batches = bare_batches(phase.source)

    def step_seconds(self, steps: int) -> float:
        """Seconds of a step, over `steps` of them."""
        clip, after = self.phase.gradient_clip, self.phase.after_step
        began = time.process_time()
        for step in range(steps):
            loss = self.loss_terms(self.model, next(self.batches))["loss"]
            self.optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimizer.step()
            if after is not None:
                with torch.no_grad():
                    after(self.model, step)
        return (time.process_time() - began) / steps


@torch.no_grad()
def product_seconds(model: nn.Module, rows: int, steps: int = 200) -> float:
    """Seconds of the products of matrices in a step of a plain network: outputs, gradients of weights and of inputs."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    arrays = [(torch.randn(rows, one.in_features), torch.randn(rows, one.out_features)) for one in layers]
    began = time.process_time()
    for _ in range(steps):
        for layer, (x, g) in zip(layers, arrays, strict=True):
            torch.mm(x, layer.weight.t())
            torch.mm(g.t(), x)
            if layer is not layers[0]:
                torch.mm(g, layer.weight)
    return (time.process_time() - began) / steps


def our_step_seconds(model: nn.Module, plan: Plan, config: RunConfig) -> tuple[float, float]:
    """Seconds of a step in `fit`, alone and with its share of an epoch's end; the first epoch only warms up."""
    judged: list[float] = []
    ended: list[tuple[int, float]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        judged.append(time.process_time())
        return plan.validate(model)

    def notice(event: Event) -> None:
        if event.moment == "epoch_end":
            ended.append((event.step, time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        with open_run(Path(folder) / "run", config.model_dump(mode="json"), provenance={}) as recorder:
            where, timed = recorder.files.checkpoints, replace(plan, validate=validate)
            fit(model, timed, seed=0, train=config.train, callbacks=[recorder, notice], checkpoints=where)
    (first, began), (last, stopped) = ended[0], ended[-1]
    alone = sum(after - before for (_, before), after in zip(ended, judged[1:], strict=False))
    return alone / (last - first), (stopped - began) / (last - first)


def compare(name: str, repeats: int, epochs: int) -> dict[str, Any]:
    """Median ratios of a case: bare seconds over ours."""
    config, model, plan = prepare(name, epochs)
    bare = BareLoop(copy.deepcopy(model), prepare(name, epochs, bare=True)[2].phases[0])
    steps = plan.phases[0].epoch_steps
    bare.step_seconds(min(steps, 100))
    rows = []
    for _ in range(repeats):
        before = bare.step_seconds(steps)
        alone, whole = our_step_seconds(copy.deepcopy(model), plan, config)
        without = (before + bare.step_seconds(steps)) / 2  # once before and once after, against a drift of the machine
        floor = product_seconds(model, config.train.batch_size) if name.startswith("tracks") else 0.0
        rows.append((without, without / alone, without / whole, floor))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    spread = {"loop": [min(r[1] for r in rows), max(r[1] for r in rows)]}
    spread["epoch"] = [min(r[2] for r in rows), max(r[2] for r in rows)]
    found = {"bare_us": 1e6 * medians[0], "loop": medians[1], "epoch": medians[2], "steps": steps, "spread": spread}
    return {**found, **({"products_us": 1e6 * medians[3]} if medians[3] else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"torch": torch.__version__, "repeats": options.repeats, "epochs": options.epochs}
    for name in CASES:
        if options.only in name:
            found[name] = case = compare(name, options.repeats, options.epochs)
            low, high = case["spread"]["loop"]
            print(
                f"{name:26} bare {case['bare_us']:7.0f} us a step; loop {case['loop']:.3f} [{low:.2f}, {high:.2f}], "
                f"epoch of {case['steps']} steps {case['epoch']:.3f} of it"
                + (f"; products {case['products_us']:.0f} us" if "products_us" in case else ""),
                flush=True,
            )
    path = Path("outputs/benchmarks/training_loop.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
