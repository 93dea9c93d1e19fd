"""What a cell costs in each form that a simulation can load: eager, TorchScript, .pt2, C++ header, weights in a file.

    python benchmarks/flavor_coupling.py [--gate learned] [--width 64] [--cells 10000] [--rounds 9] [--quick]

All forms answer the same cells in one process on one thread, in turns, in single precision; printed are medians and
their ratio to eager. The network is untrained: its weights do not change its cost. `--quick` takes 2,000 cells, three
rounds, and leaves out the .pt2. Writes outputs/benchmarks/flavor_coupling.json.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import seconds_in_turns, write_result

from thesis_surrogates.core.export.cpp_compiler import compile_source, find_compiler
from thesis_surrogates.core.export.cpp_header import export_header
from thesis_surrogates.core.export.cpp_weights import export_weights
from thesis_surrogates.core.export.torch_programs import export_pt2, export_torchscript, load_pt2
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.deployed import deploy, example_cells

FAST = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
DOOR = 'extern "C" void run(const float* in, float* out, std::size_t rows) { SPACE::evaluate<float>(in, out, rows); }'
FORMS = ("eager", "torchscript", "pt2", "header", "weights")
Ask = Callable[[np.ndarray], Any]  # cells [n, 4, 2, 3] in single precision


def library(source: str, folder: Path, name: str) -> ctypes.CDLL:
    """C++ text as a loaded library."""
    compiler = find_compiler()
    if compiler is None:
        raise SystemExit("no C++ compiler was found; install g++ or clang++, or set CXX")
    compile_source(source, folder / name, compiler, FAST)
    return ctypes.CDLL(str(folder / name))


def batch_of(function: Callable[..., None], *first: Any) -> Ask:
    """A function of C++ as one of cells."""

    def ask(cells: np.ndarray) -> np.ndarray:
        found = np.empty((len(cells), 26), np.float32)
        places = (ctypes.c_void_p(array.ctypes.data) for array in (cells, found))
        function(*first, *places, ctypes.c_size_t(len(cells)))
        return found

    return ask


def make_forms(config: Mapping[str, Any], folder: Path, names: tuple[str, ...] = FORMS, space: str = "model"):
    """The network, and each form of it as a function that answers cells; each network needs a space of its own."""
    network = build(config)
    deployable = replace(deploy(network), entry_points={})
    forms: dict[str, Ask] = {"eager": lambda cells: deployable.module(torch.from_numpy(cells))}
    if "torchscript" in names:
        export_torchscript(deployable, folder / f"{space}.ts", states=300)
        script = torch.jit.load(str(folder / f"{space}.ts"))
        forms["torchscript"] = lambda cells: script(torch.from_numpy(cells))
    if "pt2" in names:
        export_pt2(deployable, folder / f"{space}.pt2", states=300)
        package = load_pt2(folder / f"{space}.pt2")["forward"]
        forms["pt2"] = lambda cells: package(torch.from_numpy(cells))
    if "header" in names:
        export_header(deployable, folder / f"{space}.hpp", states=300)
        door = f'#include "{folder / f"{space}.hpp"}"\n{DOOR.replace("SPACE", space)}\n'
        forms["header"] = batch_of(library(door, folder, f"{space}_header").run)
    if "weights" in names:
        place = folder / f"{space}_weights"
        place.mkdir()
        export_weights(deployable, place / f"{space}.bin", states=300)
        weights = library((place / f"{space}.cpp").read_text(), place, "library")
        opened = getattr(weights, f"{space}_open")
        opened.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(opened(str(place / f"{space}.bin").encode(), None, 0))
        forms["weights"] = batch_of(getattr(weights, f"{space}_forward_f32"), handle)
    return network, forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default="learned", help="learned, none, or analytic, which takes minutes to export")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    words = parser.parse_args()
    torch.set_num_threads(1)
    count, rounds = (2000, 3) if words.quick else (words.cells, words.rounds)
    examples = example_cells().astype(np.float32)
    cells = np.ascontiguousarray(examples[np.arange(count) % len(examples)])
    config = {"name": "ymatrix", "features": "contrast", "exchange": "layers", "gate": words.gate, "physical": True}
    names = tuple(name for name in FORMS if not (words.quick and name == "pt2"))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        network, forms = make_forms({**config, "width": words.width}, Path(folder), names)
        seconds = seconds_in_turns({name: (lambda ask=ask: ask(cells)) for name, ask in forms.items()}, rounds)
    rows = [
        {"form": name, "us_a_cell": 1e6 * found / count, "of_eager": found / seconds["eager"]}
        for name, found in seconds.items()
    ]
    about = {"config": {**config, "width": words.width}, "parameters": count_parameters(network), "cells": count}
    write_result("flavor_coupling", {**about, "rows": rows})


if __name__ == "__main__":
    main()
