"""The C++ programs as `tracks_timing.py` measures them; they time themselves, in one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fresh_tracks import count_errors

from thesis_surrogates.core.export.cpp_header import export_header
from thesis_surrogates.core.export.deployable import Deployable
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.tracks.exchange.native import (
    build_native,
    missing_tools,
    native_rows,
    run_header,
    run_native,
    time_native,
)
from thesis_surrogates.tracks.field import Field
from thesis_surrogates.tracks.study.runtimes import STEPPERS

REPEATS = 5


def rows_of_batches(
    about: Mapping[str, Any],  # of the method
    found: Mapping[str, float],  # cost of one track alone and of one among many [us]
    batches: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Rows at the smallest and the largest batch, of those that were asked for."""
    for batch, cost in {1: found["single_us"], max(batches): found["many_us"]}.items():
        if batch in batches:
            yield {**about, "batch": batch, "cost_us": cost, "repeats": REPEATS}


def header_rows(
    deployables: Mapping[str, Deployable], states: np.ndarray, target: np.ndarray, batches: Sequence[int], place: Path
) -> Iterator[dict[str, Any]]:
    """Rows of each network from its header, compiled below `place`."""
    for name, deployable in deployables.items():
        folder = place / name.replace(" ", "_")
        folder.mkdir()
        try:
            export_header(deployable, folder / "model.hpp", states=1000)
            build_native(folder / "build", folder / "model.hpp")
        except RuntimeError as error:
            print(f"  {name}: C++ header left out ({str(error).splitlines()[0][-100:]})")
            continue
        found = time_native(folder / "build" / "from_header", states, count=max(batches), repeats=REPEATS)
        about = {
            "contender": name,
            "kind": "surrogate",
            "path": "C++ header",
            "parameters": count_parameters(deployable.module),
            **count_errors(run_header(folder / "build", states), target),
        }
        cost = {"single_us": 1e-3 * found["single_ns"], "many_us": 1e-3 * found["many_ns"]}
        yield from rows_of_batches(about, cost, batches)


def stepper_rows(
    field: Field, steppers: Sequence[str], states: np.ndarray, target: np.ndarray, batches: Sequence[int], place: Path
) -> Iterator[dict[str, Any]]:
    """Rows of the named steppers, compiled in `place`."""
    build_native(place)
    longest = float(np.abs(states[:, 6]).max())
    number = {family: [name.split()[1] for name in steppers if name.startswith(family)] for family in STEPPERS}
    steps, tolerances = [int(n) for n in number["RK4"]], [float(e) for e in number["Cash-Karp"]]
    table = native_rows(place, states, field, steps, tolerances, count=max(batches), repeats=REPEATS)
    for entry in table.to_dict("records"):
        words = str(entry["contender"]).split()
        options: dict[str, Any] = (
            {"method": "rk4", "step": longest / int(words[2])}
            if "RK4" in words
            else {"method": "cash_karp", "step": 1000.0, "tolerance": float(words[2])}
        )
        about = {
            "contender": str(entry["contender"]).removeprefix("C++ "),
            "kind": "baseline",
            "path": "C++",
            "parameters": 0,
            **count_errors(run_native(place, states, field, **options), target),
        }
        cost = {"single_us": entry["single_us"], "many_us": entry["us_per_track"]}
        yield from rows_of_batches(about, cost, batches)


def measure_native(
    field: Field,
    inputs: torch.Tensor,
    target: np.ndarray,
    deployables: Mapping[str, Deployable],
    steppers: Sequence[str],
    batches: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Rows of all C++ programs: each network from its header, and the named steppers; none without a compiler."""
    if (lacking := missing_tools()) is not None:
        print(f"  C++ left out: {lacking}")
        return
    states = inputs.double().numpy()
    with tempfile.TemporaryDirectory() as place:
        yield from header_rows(deployables, states, target, batches, Path(place))
        yield from stepper_rows(field, steppers, states, target, batches, Path(place) / "baseline")
