"""What a Runge-Kutta track costs in each implementation, beside the square roots that none of them avoids.

    python benchmarks/tracks_blocks.py [--tracks 20000] [--counts 4 8 16] [--budget 2]

On the standard leg, in each analytic field: the compiled loop over single tracks, the same behind `propagate` with its
checks, and the stepper over blocks of tracks in double and in single precision, all in turns in one process on one
thread. Errors are those against steps of 5 mm. The floor is the time of the four square roots of each step. Writes
outputs/benchmarks/tracks_blocks.json.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before anything that starts threads

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from measured import write_result
from timing_methods import kernel_arguments

from thesis_surrogates.core.timing import time_in_turns
from thesis_surrogates.tracks.block_stepper import block_precisions, in_lanes, propagate_blocks
from thesis_surrogates.tracks.data import draw_tracks
from thesis_surrogates.tracks.data_config import TracksData
from thesis_surrogates.tracks.field import Field, make_field
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.steppers import rk4_batch

FIELDS = ("uniform", "gaussian", "dipole", "lhcb_like")
Answer = Callable[[], np.ndarray]


@in_lanes
def take_roots(values: np.ndarray, count: int) -> None:
    """Square roots of 1 + v^2 for all values, so many times, a block at a time as in the stepper."""
    for first in range(0, len(values), 64):
        block = values[first : first + 64]
        for _ in range(count):
            for i in range(len(block)):
                block[i] = np.sqrt(block.dtype.type(1.0) + block[i] * block[i]) - block[i]


def implementations(field: Field, rows: torch.Tensor, steps: int) -> Iterator[tuple[str, Answer]]:
    """Name and call of each way to follow the tracks [N, 7] in so many steps."""
    values, length = rows.double().numpy(), float(rows[:, 6].abs().max())
    arguments = values[:, :4].copy(), values[:, 4].copy(), values[:, 5].copy(), values[:, 5] + values[:, 6]
    kernel = kernel_arguments(rows, field)
    yield "one track at a time", lambda: rk4_batch(*kernel, length / steps, 0.0)[0]
    yield "one track at a time, propagate", partial(propagate, *arguments, field, step=length / steps)
    for precision in block_precisions(field, one_leg=True):
        yield f"blocks of tracks, {precision}", partial(propagate_blocks, *arguments, field, length / steps, precision)


def measure(name: str, steps: int, rows: torch.Tensor, budget: float) -> dict[str, Any]:
    """Cost in microseconds a track, and errors, of all implementations, and the floors of both precisions."""
    field = make_field(name, 1, None)
    ways = dict(implementations(field, rows, steps))
    values = rows.double().numpy()
    truth = propagate(values[:, :4], values[:, 4], values[:, 5], values[:, 5] + values[:, 6], field, step=5.0)
    errors = {way: float(np.nanmean(np.hypot(*(answer() - truth)[:, :2].T))) for way, answer in ways.items()}
    roots = {kind: np.ones(len(rows), dtype=kind) for kind in ("float64", "float32")}
    floors = {f"floor, {kind}": partial(take_roots, array, 4 * steps) for kind, array in roots.items()}
    taken = time_in_turns([*ways.values(), *floors.values()], budget, most=30, fewest=3, warm_ups=20)
    names = zip([*ways, *floors], taken, strict=True)
    cost = {way: {key: 1e6 * one[key] / len(rows) for key in ("seconds", "least")} for way, one in names}
    return {"field": name, "steps": steps, "cost_us": cost, "position_mean_mm": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=20_000)
    parser.add_argument("--counts", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each way")
    options = parser.parse_args()
    rows = torch.from_numpy(draw_tracks(TracksData(), 0)[: options.tracks].astype(np.float32))
    found = [measure(name, steps, rows, options.budget) for name in FIELDS for steps in options.counts]
    for one in found:
        costs = ", ".join(f"{way} {cost['seconds']:.3g}" for way, cost in one["cost_us"].items())
        print(f"{one['field']}, {one['steps']} steps [us a track]: {costs}", flush=True)
    write_result("tracks_blocks", {"tracks": len(rows), "cases": found})


if __name__ == "__main__":
    main()
