"""What a cell costs in each form that a simulation can load: eager, TorchScript, C++ header, and weights in a file.

    python benchmarks/flavor_coupling.py [--gate learned] [--cells 10000] [--rounds 9]

All forms answer the same cells in one process on one thread, in turns, in single precision; printed are medians and
their ratio to eager. The network is untrained: its weights do not change its cost.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from thesis_surrogates.core.export.cpp_compiler import compile_source, find_compiler
from thesis_surrogates.core.export.cpp_header import export_header
from thesis_surrogates.core.export.cpp_weights import export_weights
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.deployed import deploy, example_cells

FAST = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
DOOR = 'extern "C" void run(const float* in, float* out, std::size_t rows) { model::evaluate<float>(in, out, rows); }'


def library(source: str, folder: Path, name: str) -> ctypes.CDLL:
    """C++ text as a loaded library."""
    compiler = find_compiler()
    if compiler is None:
        raise SystemExit("no C++ compiler was found; install g++ or clang++, or set CXX")
    compile_source(source, folder / name, compiler, FAST)
    return ctypes.CDLL(str(folder / name))


def pointers(*arrays: np.ndarray) -> tuple[ctypes.c_void_p, ...]:
    """Where arrays lie, and how many rows they have."""
    return (*(ctypes.c_void_p(array.ctypes.data) for array in arrays), ctypes.c_size_t(len(arrays[0])))


def make_forms(gate: str, cells: np.ndarray, folder: Path) -> dict[str, Callable[[], object]]:
    """Each form as a function that answers the cells."""
    network = build({"name": "ymatrix", "features": "contrast", "exchange": "layers", "gate": gate, "physical": True})
    deployable = replace(deploy(network), entry_points={})
    export_torchscript(deployable, folder / "model.ts", states=300)
    export_header(deployable, folder / "model.hpp", states=300)
    header = library(f'#include "{folder / "model.hpp"}"\n{DOOR}\n', folder, "header")
    (folder / "weights").mkdir()
    export_weights(deployable, folder / "weights" / "model.bin", states=300)
    weights = library((folder / "weights" / "model.cpp").read_text(), folder / "weights", "library")
    weights.model_open.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(weights.model_open(str(folder / "weights" / "model.bin").encode(), None, 0))
    rows, given = cells.reshape(len(cells), 24), torch.from_numpy(cells)
    found, script = np.empty((len(rows), 26), np.float32), torch.jit.load(str(folder / "model.ts"))
    return {
        "eager": lambda: deployable.module(given),
        "torchscript": lambda: script(given),
        "header": lambda: header.run(*pointers(rows, found)),
        "weights": lambda: weights.model_forward_f32(handle, *pointers(rows, found)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gate", default="learned", help="learned, none, or analytic, which takes minutes to export")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples = example_cells().astype(np.float32)
    cells = np.ascontiguousarray(examples[np.arange(options.cells) % len(examples)])
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        forms = make_forms(options.gate, cells, Path(folder))
        for _ in range(options.rounds + 1):
            for name, ask in forms.items():
                begin = time.process_time()
                ask()
                times.setdefault(name, []).append(time.process_time() - begin)
    medians = {name: statistics.median(each[1:]) / options.cells * 1e6 for name, each in times.items()}
    for name, microseconds in medians.items():
        ratio = microseconds / medians["eager"]
        print(json.dumps({"form": name, "us_a_cell": round(microseconds, 3), "of_eager": round(ratio, 3)}))


if __name__ == "__main__":
    main()
