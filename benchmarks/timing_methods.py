"""The ways to answer that `tracks_timing.py` compares: networks in their runtimes, and the classical methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from thesis_surrogates.core.export.deployable import Deployable, ExportError
from thesis_surrogates.core.export.onnx import export_onnx, silence_exporter
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.core.timing import in_pieces
from thesis_surrogates.tracks.axis_tables import AxisFrame
from thesis_surrogates.tracks.baselines import SINGLE_COUNTS, STEP_COUNTS, TOLERANCES_MM, parabola
from thesis_surrogates.tracks.block_stepper import Precision, block_precisions, is_one_leg, propagate_blocks
from thesis_surrogates.tracks.data import straight_line
from thesis_surrogates.tracks.field import Field
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.steppers import CURVATURE, cash_karp_batch, rk4_batch
from thesis_surrogates.tracks.study.runtimes import BLOCK_PATHS, STEPPERS

PIECE = 5000  # rows that a network sees at once
# Numbers of steps of Runge-Kutta: close enough for a baseline beside every error.
COUNTS = tuple(n for n in STEP_COUNTS if n <= 16 or n % 2 == 0)
# A stepper whose errors are smaller by this factor than those of every surrogate ends its family: what is finer is not
# timed.
FAR_MORE_ACCURATE = 30
Predict = Callable[[Any], Any]


@dataclass(frozen=True)
class Method:
    """One way to answer: `prepare` makes a batch's input (not timed), `call` answers it (timed)."""

    contender: str
    kind: str
    path: str
    prepare: Callable[[torch.Tensor], Any]
    call: Predict
    parameters: int = 0
    largest: int = 10**9  # batches beyond this are left out


def onnx_call(path: Path) -> Predict:
    """An ONNX file as a function of numpy arrays."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return in_pieces(lambda rows: session.run(None, {name: rows})[0], PIECE)


def same(rows: torch.Tensor) -> torch.Tensor:
    """The batch as it is."""
    return rows


def on_gpu(module: torch.nn.Module) -> Predict:
    """A copy of a network on the GPU, for batches that lie there; each call waits until the answer is there."""
    copied = copy.deepcopy(module).cuda()

    def run(rows: torch.Tensor) -> torch.Tensor:
        answer = copied(rows)
        torch.cuda.synchronize()
        return answer

    return run


def networks(name: str, module: torch.nn.Module, deployable: Deployable, folder: Path) -> Iterator[Method]:
    """The runtimes of one network; one that cannot take it is left out, and named."""
    size = count_parameters(module)
    yield Method(name, "surrogate", "torch eager", same, in_pieces(module, PIECE), size)
    try:
        with silence_exporter():
            compiled = torch.compile(module, dynamic=False)
            compiled(torch.ones(PIECE, 7))
        yield Method(name, "surrogate", "torch.compile", same, in_pieces(compiled, PIECE), size)
    except Exception as error:  # no C++ compiler, or an operation that inductor refuses
        print(f"  {name}: torch.compile left out ({type(error).__name__})")
    if torch.cuda.is_available():
        yield Method(name, "surrogate", "torch on the GPU", torch.Tensor.cuda, on_gpu(module), size)
    for ending, write in (("onnx", export_onnx), ("ts", export_torchscript)):
        try:
            write(deployable, folder / f"{name}.{ending}", states=1000)
        except ExportError as error:
            print(f"  {name}: {ending} left out ({str(error).splitlines()[0][-100:]})")
            continue
        if ending == "onnx":
            yield Method(
                name, "surrogate", "ONNX Runtime", torch.Tensor.numpy, onnx_call(folder / f"{name}.onnx"), size
            )
        else:
            yield Method(
                name,
                "surrogate",
                "TorchScript",
                same,
                in_pieces(torch.jit.load(str(folder / f"{name}.ts")), PIECE),
                size,
            )


def kernel_arguments(rows: torch.Tensor, field: Field) -> tuple[Any, ...]:
    """What the bare compiled loops take, from inputs [N, 7]."""
    values = rows.double().numpy()
    z_start = np.ascontiguousarray(values[:, 5])
    return (
        *field.compiled(),
        np.array(field.planes, dtype=np.float64),
        z_start,
        z_start + values[:, 6],
        np.ascontiguousarray(values[:, :4]),
        CURVATURE * values[:, 4],
    )


def public_arguments(rows: torch.Tensor) -> tuple[np.ndarray, ...]:
    """What `propagate` takes, from inputs [N, 7]."""
    values = rows.double().numpy()
    return values[:, :4].copy(), values[:, 4].copy(), values[:, 5].copy(), values[:, 5] + values[:, 6]


def axis_tables(field: Field, inputs: torch.Tensor, variable: bool, passes: int) -> Predict:
    """The tables of the axis without any network, for legs like those of `inputs`."""
    frame = AxisFrame(variable, passes=passes)
    frame.fit({"inputs": inputs[:1]}, field)
    return in_pieces(lambda rows: frame.state(rows, torch.zeros(len(rows), 4)), PIECE)


def classical(field: Field, inputs: torch.Tensor, variable: bool) -> Iterator[Method]:
    """Doing nothing, the parabola, the tables of the axis, and both steppers: by `propagate` with its checks, by
    the bare compiled loop, and Runge-Kutta over blocks of tracks.
    """
    yield Method("straight line", "nothing", "numpy", lambda rows: rows.double().numpy(), straight_line)
    yield Method("parabola", "baseline", "torch", lambda rows: rows.double(), lambda rows: parabola(rows, field))
    for passes, name in ((1, "axis tables"), (2, "axis tables, 2 passes")):
        yield Method(name, "baseline", "torch", same, axis_tables(field, inputs, variable, passes))
    kernel_rows, longest = partial(kernel_arguments, field=field), float(inputs[:, 6].abs().max())
    for n in COUNTS:
        step = longest / n
        yield Method(
            f"RK4 {n} steps",
            "baseline",
            "numba kernel",
            kernel_rows,
            lambda given, step=step: rk4_batch(*given, step, 0.0)[0],
        )
        yield Method(
            f"RK4 {n} steps",
            "baseline",
            "propagate",
            public_arguments,
            lambda given, step=step: propagate(*given, field, step=step),
            largest=10_000,
        )  # beyond, its checks cost nothing per track
    for tolerance in TOLERANCES_MM:
        yield Method(
            f"Cash-Karp {tolerance:g} mm",
            "baseline",
            "numba kernel",
            kernel_rows,
            lambda given, tolerance=tolerance: cash_karp_batch(*given, 1000.0, tolerance)[0],
        )
        yield Method(
            f"Cash-Karp {tolerance:g} mm",
            "baseline",
            "propagate",
            public_arguments,
            lambda given, tolerance=tolerance: propagate(*given, field, method="cash_karp", tolerance=tolerance),
            largest=10_000,
        )
    yield from block_steppers(field, inputs)


def block_steppers(field: Field, inputs: torch.Tensor) -> Iterator[Method]:
    """Runge-Kutta over blocks of tracks in each precision that the field has: the strongest form of the baseline."""
    rows = inputs.double().numpy()
    one_leg, longest = is_one_leg(rows[:, 5], rows[:, 5] + rows[:, 6]), float(inputs[:, 6].abs().max())
    for precision in block_precisions(field, one_leg):
        for n in COUNTS if precision == "float64" else SINGLE_COUNTS:
            call = partial(follow_blocks, field=field, step=longest / n, precision=precision)
            yield Method(f"RK4 {n} steps", "baseline", BLOCK_PATHS[precision], public_arguments, call)


def follow_blocks(given: tuple[np.ndarray, ...], field: Field, step: float, precision: Precision) -> np.ndarray:
    """Final states of what `public_arguments` returned."""
    return propagate_blocks(*given, field, step, precision)


def select_comparable(
    methods: list[Method], quality: list[dict[str, float]]
) -> tuple[list[Method], list[dict[str, float]]]:
    """Methods and their errors; of each family of steppers only as far as the first that is far more accurate, in
    mean and in median, than every surrogate.
    """
    own = [error for method, error in zip(methods, quality, strict=True) if method.kind == "surrogate"]
    floor = {
        name: min((error[name] for error in own), default=0.0) / FAR_MORE_ACCURATE
        for name in ("position_mean_mm", "position_median_mm")
    }
    kept, enough = [], set()
    for method, error in zip(methods, quality, strict=True):
        family = method.contender.split()[0], method.path
        if family not in enough:
            kept.append((method, error))
        if method.contender.startswith(STEPPERS) and all(error[name] <= floor[name] for name in floor):
            enough.add(family)
    return [method for method, _ in kept], [error for _, error in kept]
