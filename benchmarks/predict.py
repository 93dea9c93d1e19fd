"""What `predict` costs for one row and for many, beside the bare module and ONNX Runtime, in turns in one process.

    python benchmarks/predict.py [--system tracks] [--rows 100000] [--seconds 5]

The network is untrained (its weights cost the same) and has the size of the demo. Prints microseconds a row and the
ratios, and writes outputs/benchmarks/predict.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from measured import write_result

from thesis_surrogates.core.surrogate import Surrogate, apply_in_pieces
from thesis_surrogates.core.timing import time_in_turns
from thesis_surrogates.running.registry import get_system, load_suite

PIECES = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)  # rows; the best of them is the peer


def untrained(system: str) -> Surrogate:
    """A network as the first run of the demo has it, with fresh weights."""
    record, config = get_system(system), load_suite(f"{system}/demo")[0]
    torch.manual_seed(0)
    model = config.model.build(config.data).eval()
    return Surrogate(config, model, record.deploy(model))


def contenders(surrogate: Surrogate, rows: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    """What is timed, by name; all answer the same rows."""
    module, session = surrogate.deployable.module, surrogate.as_onnx.session
    tensors = [torch.from_numpy(array) for array in rows]
    feed = dict(zip(surrogate.as_onnx.names, rows, strict=True))
    return {
        "predict": lambda: surrogate.predict(*rows),
        'predict, runtime="onnx"': lambda: surrogate.predict(*rows, runtime="onnx"),
        "ONNX Runtime": lambda: session.run(None, feed),
        **{f"module, {size} rows": lambda size=size: apply_in_pieces(module, tensors, size) for size in PIECES},
    }


def measure(surrogate: Surrogate, count: int, seconds: float) -> dict[str, float]:
    """Median microseconds a row of each contender, for so many rows at once."""
    rows = [value.numpy() for value in surrogate.deployable.inputs.values()]
    many = [np.ascontiguousarray(np.resize(array, (count, *array.shape[1:]))) for array in rows]
    calls = contenders(surrogate, many)
    if count == 1:
        calls = {name: call for name, call in calls.items() if "rows" not in name} | {
            "module": calls["module, 256 rows"]
        }
    times = time_in_turns(list(calls.values()), seconds)
    return {name: 1e6 * one["seconds"] / count for name, one in zip(calls, times, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", default="tracks")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender")
    given = parser.parse_args()
    torch.set_num_threads(1)
    surrogate = untrained(given.system)
    one, many = (measure(surrogate, count, given.seconds) for count in (1, given.rows))
    best = min(value for name, value in many.items() if name.startswith("module"))
    result = {
        "system": given.system,
        "model": surrogate.config.name,
        "microseconds_one_row": one,
        "rows": given.rows,
        "microseconds_a_row_of_many": many,
        "one_row_onnx_to_onnx_runtime": one['predict, runtime="onnx"'] / one["ONNX Runtime"],
        "many_rows_to_best_piece": many["predict"] / best,
        "many_rows_onnx_to_onnx_runtime": many['predict, runtime="onnx"'] / many["ONNX Runtime"],
    }
    write_result("predict", result)


if __name__ == "__main__":
    main()
