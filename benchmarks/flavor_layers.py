"""What exact exchange of muon and tau costs a flavor network: an average of two passes, or layers that know it.

    python benchmarks/flavor_layers.py [--parameters 91210] [--rows 10000] [--repeats 7]

Both kinds, and a plain network of the same features without any symmetry, get the width that has about as many
parameters. In one process and in turn each makes a prediction of all rows and a training step. Shown is the speed of
the plain one divided into that of the others, by processor time, medians over repeats; one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from thesis_surrogates.core.data import numpy_rng
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.flavor.generator import random_cells
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.surrogate import FlavorSurrogate


def sized(parameters: int, exchange: str) -> FlavorSurrogate:
    """The network of this kind whose number of parameters is closest from above."""
    for width in range(16, 400, 2):
        network = build({**OPTIONS, "width": width, "exchange": exchange})
        if count_parameters(network) >= parameters:
            return network
    raise SystemExit(f"--parameters {parameters}: give fewer, a width of 400 has less")


OPTIONS = {"name": "ymatrix", "features": "gram", "gate": "learned"}


class Plain(nn.Module):
    """The same network reading its cells in one order only."""

    def __init__(self, network: FlavorSurrogate):
        super().__init__()
        backbone = network.backbone
        backbone.orders, backbone.put_back, backbone.count = backbone.orders[:1], backbone.put_back[:1], 1
        self.network = network

    def forward(self, f4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.network(f4)


def step_of(network: nn.Module, cells: Tensor) -> Callable[[], None]:
    """One update of a simple loss."""
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    scale = float(cells[:, 3].sum((1, 2)).mean())

    def step() -> None:
        optimizer.zero_grad()
        final, rate, logit = network(cells)
        ((final / scale).square().mean() + rate.square().mean() + logit.square().mean()).backward()
        optimizer.step()

    return step


def guess_of(network: nn.Module, cells: Tensor) -> Callable[[], None]:
    """One prediction of all rows."""

    def guess() -> None:
        with torch.no_grad():
            network(cells)

    return guess


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--parameters", type=int, default=91_210)
    words.add_argument("--rows", type=int, default=10_000)
    words.add_argument("--repeats", type=int, default=7)
    given = words.parse_args()
    torch.set_num_threads(1)
    cells = torch.from_numpy(random_cells(numpy_rng(0, "benchmark"), given.rows)).float()
    networks: dict[str, nn.Module] = {kind: sized(given.parameters, kind) for kind in ("average", "layers")}
    networks["plain"] = Plain(sized(given.parameters, "average"))
    for title, make in (("prediction", guess_of), ("training step", step_of)):
        jobs = {name: make(network, cells) for name, network in networks.items()}
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(given.repeats + 1):
            for name, job in jobs.items():
                start = time.process_time()
                job()
                seconds[name].append(time.process_time() - start)
        medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        for name, network in networks.items():
            ratio, speed = medians["plain"] / medians[name], given.rows / medians[name]
            size = count_parameters(network)
            print(f"{title:14s} {name:8s} {size:7d} parameters {speed:9.0f}/s {ratio:5.2f} of plain")


if __name__ == "__main__":
    main()
