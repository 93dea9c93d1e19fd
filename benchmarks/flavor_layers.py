"""What exact exchange of muon and tau costs a flavor network: an average of two passes, or layers that know it.

    python benchmarks/flavor_layers.py [--parameters 91210] [--rows 10000] [--repeats 7] [--quick]

Both kinds, a survival network, and a plain network of the same features without any symmetry, get the width that has
about as many parameters. In one process and in turn each makes a prediction of all rows, and a training step with twice
as many (two streams); beside them stand nothing but the matrix products of the plain one. All times are processor
time, medians over repeats, one thread; ratios count, since others may use the machine. `--quick` takes 1,000 rows and
two repeats. Writes outputs/benchmarks/flavor_layers.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measured import seconds_in_turns, write_result
from torch import Tensor, nn

from thesis_surrogates.core.data import numpy_rng
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.flavor.generator import random_cells
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.surrogate import FlavorSurrogate


def sized(parameters: int, exchange: str, **options: str) -> FlavorSurrogate:
    """The network of this kind whose number of parameters is closest from above."""
    for width in range(16, 400, 2):
        network = build({**OPTIONS, "width": width, "exchange": exchange, **options})
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


def products_of(network: nn.Module, rows: int) -> Callable[[], None]:
    """The matrix products of a prediction by a plain network, and nothing else."""
    weights = [weight.detach() for weight in network.parameters() if weight.dim() == 2]
    given = [torch.randn(rows, weight.shape[1]) for weight in weights]

    def multiply() -> None:
        for x, weight in zip(given, weights, strict=True):
            torch.mm(x, weight.t())

    return multiply


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--parameters", type=int, default=91_210)
    words.add_argument("--rows", type=int, default=10_000)
    words.add_argument("--repeats", type=int, default=7)
    words.add_argument("--quick", action="store_true")
    given = words.parse_args()
    torch.set_num_threads(1)
    rows, repeats = (1000, 2) if given.quick else (given.rows, given.repeats)
    cells = torch.from_numpy(random_cells(numpy_rng(0, "benchmark"), 2 * rows)).float()
    networks: dict[str, nn.Module] = {kind: sized(given.parameters, kind) for kind in ("average", "layers")}
    networks["survival"] = sized(given.parameters, "layers", name="survival")
    networks["plain"] = Plain(sized(given.parameters, "average"))
    found: list[dict[str, object]] = []
    for title, make, count in (("prediction", guess_of, rows), ("training step", step_of, 2 * rows)):
        jobs = {name: make(network, cells[:count]) for name, network in networks.items()}
        if title == "prediction":
            jobs["matrix products"] = products_of(networks["plain"], count)
        seconds = seconds_in_turns(jobs, repeats)
        for name in jobs:
            size = count_parameters(networks[name]) if name in networks else None
            speed, ratio = count / seconds[name], seconds["plain"] / seconds[name]
            row = {"job": title, "network": name, "parameters": size, "rows_per_second": speed, "of_plain": ratio}
            if title == "prediction":
                row["of_matrix_rate"] = seconds["matrix products"] / seconds[name]
            found.append(row)
    write_result("flavor_layers", {"rows": rows, "results": found})


if __name__ == "__main__":
    main()
