"""What a track costs: networks in four runtimes, Runge-Kutta, Cash-Karp, straight line and parabola, one thread, one
process.

    python benchmarks/tracks_timing.py [RUN_DIR ...] [--batches 1 100 10000 1000000] [--budget 2] [--tracks 20000]
        [--no-facts]

Run directories of one leg are compared with the classical methods on that leg, on tracks that no run has seen. Each
number is the median over at least 30 repeats after at least 200 warm-up calls, unless `--budget` seconds are spent
first (then the row says how many there were), all methods of a batch in turns. A repeat lasts at least half a
millisecond: cheap calls are repeated inside it. Networks see large batches in pieces of 5000. C++ rows appear where
CMake and a compiler are found. Writes outputs/benchmarks/tracks/timing_results.json and figures, and adds the rows of
each run, with the classical ones beside it, to the facts of the run as the moment `runtimes`, which `surrogates
publish` copies.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before anything that starts threads

import argparse
import copy
import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import onnxruntime
import pandas as pd
import torch

from thesis_surrogates.core.export.onnx import Deployable, ExportError, export_onnx, export_torchscript, silent
from thesis_surrogates.core.facts import reason_not_measurable
from thesis_surrogates.core.models import count_parameters
from thesis_surrogates.core.plots import KIND_COLOR, new_figure, save_figure, style
from thesis_surrogates.core.recorder import append_event
from thesis_surrogates.core.runtimes import runtime_facts
from thesis_surrogates.core.surrogate import Surrogate
from thesis_surrogates.core.timing import in_pieces, time_in_turns
from thesis_surrogates.running.execution import load_surrogate
from thesis_surrogates.tracks.axis_tables import AxisFrame
from thesis_surrogates.tracks.baselines import STEP_COUNTS, TOLERANCES, parabola
from thesis_surrogates.tracks.data import TracksData, generate, straight_line
from thesis_surrogates.tracks.field import Field, make_field
from thesis_surrogates.tracks.figures import accuracy_against_cost
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.steppers import CURVATURE, cash_karp_batch, rk4_batch
from thesis_surrogates.tracks.study.runtimes import RUNTIMES, STEPPERS

PIECE = 5000  # rows that a network sees at once
COUNTS = tuple(
    n for n in STEP_COUNTS if n <= 16 or n % 2 == 0
)  # of Runge-Kutta's steps: close enough for a baseline of every error
TOO_ACCURATE = (
    30  # a stepper that is so many times more accurate than every surrogate ends its family: what is finer is not timed
)
WARM_UP, FEWEST, MOST = 200, 3, 30  # warm-up calls at most, and repeats as far as the budget of seconds allows
REPEATS = 5  # of the C++ programs, which time themselves
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
    """The runtimes of one network; one that cannot take it is left out with a word."""
    size = count_parameters(module)
    yield Method(name, "surrogate", "torch eager", same, in_pieces(module, PIECE), size)
    try:
        with silent():
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
    """Doing nothing, the parabola, the tables of the axis, and both steppers: by `propagate` with its checks, and by
    the bare compiled loop.
    """
    yield Method("straight line", "nothing", "numpy", lambda rows: rows.double().numpy(), straight_line)
    yield Method("parabola", "classical", "torch", lambda rows: rows.double(), lambda rows: parabola(rows, field))
    for passes, name in ((1, "axis tables"), (2, "axis tables, 2 passes")):
        yield Method(name, "classical", "torch", same, axis_tables(field, inputs, variable, passes))
    kernel_rows, longest = partial(kernel_arguments, field=field), float(inputs[:, 6].abs().max())
    for n in COUNTS:
        step = longest / n
        yield Method(
            f"RK4 {n} steps",
            "classical",
            "numba kernel",
            kernel_rows,
            lambda given, step=step: rk4_batch(*given, step, 0.0)[0],
        )
        yield Method(
            f"RK4 {n} steps",
            "classical",
            "propagate",
            public_arguments,
            lambda given, step=step: propagate(*given, field, step=step),
            largest=10_000,
        )  # beyond, its checks cost nothing per track
    for tolerance in TOLERANCES:
        yield Method(
            f"Cash-Karp {tolerance:g} mm",
            "classical",
            "numba kernel",
            kernel_rows,
            lambda given, tolerance=tolerance: cash_karp_batch(*given, 1000.0, tolerance)[0],
        )
        yield Method(
            f"Cash-Karp {tolerance:g} mm",
            "classical",
            "propagate",
            public_arguments,
            lambda given, tolerance=tolerance: propagate(*given, field, method="cash_karp", tolerance=tolerance),
            largest=10_000,
        )


def unseen(config: TracksData, tracks: int, field: Field) -> tuple[torch.Tensor, np.ndarray]:
    """Fresh tracks of a dataset's law with another seed: inputs [N, 7] float32 and target [N, 4]."""
    fresh = config.model_copy(update={"seed": config.seed + 1_000_003, "n_tracks": tracks})
    pieces = list(generate(fresh, field))
    return (
        torch.from_numpy(np.concatenate([piece["inputs"] for piece in pieces]).astype(np.float32)),
        np.concatenate([piece["target"] for piece in pieces]),
    )


def errors(method: Method, inputs: torch.Tensor, target: np.ndarray) -> dict[str, float]:
    """Mean, median, p95 position error [mm] and mean slope error."""
    answer = torch.as_tensor(method.call(method.prepare(inputs))).cpu().double().numpy()
    position, slope = np.hypot(*(answer - target)[:, :2].T), np.hypot(*(answer - target)[:, 2:].T)
    return {
        "position_mean_mm": float(position.mean()),
        "position_median_mm": float(np.median(position)),
        "position_p95_mm": float(np.quantile(position, 0.95)),
        "slope_mean": float(slope.mean()),
    }


def native(
    field: Field,
    inputs: torch.Tensor,
    target: np.ndarray,
    deployables: dict[str, Deployable],
    steppers: list[str],
    batches: list[int],
) -> Iterator[dict[str, Any]]:
    """Rows of the C++ programs at the smallest and the largest batch: the named steppers, and each network from its
    header.
    """
    try:
        from thesis_surrogates.core.export.cpp_header import export_header
        from thesis_surrogates.tracks.exchange.native import (
            build_native,
            missing_tools,
            native_rows,
            run_header,
            run_native,
            time_native,
        )
    except ImportError:
        return
    if (lacking := missing_tools()) is not None:
        print(f"  C++ left out: {lacking}")
        return
    states, longest, many = inputs.double().numpy(), float(inputs[:, 6].abs().max()), max(batches)

    def rows(
        contender: str, kind: str, path: str, found: dict[str, float], answer: np.ndarray, size: int
    ) -> Iterator[dict[str, Any]]:
        position, slope = np.hypot(*(answer - target)[:, :2].T), np.hypot(*(answer - target)[:, 2:].T)
        about = {
            "contender": contender,
            "kind": kind,
            "path": path,
            "parameters": size,
            "position_mean_mm": float(position.mean()),
            "position_median_mm": float(np.median(position)),
            "position_p95_mm": float(np.quantile(position, 0.95)),
            "slope_mean": float(slope.mean()),
        }
        for batch, cost in {1: found["single_us"], many: found["many_us"]}.items():
            if batch in batches:
                yield {**about, "batch": batch, "cost_us": cost, "repeats": REPEATS}  # the programs time themselves

    with tempfile.TemporaryDirectory() as place:
        for name, deployable in deployables.items():
            folder = Path(place) / name.replace(" ", "_")
            folder.mkdir()
            try:
                export_header(deployable, folder / "model.hpp", states=1000)
                build_native(folder / "build", folder / "model.hpp")
            except RuntimeError as error:
                print(f"  {name}: C++ header left out ({str(error).splitlines()[0][-100:]})")
                continue
            found = time_native(folder / "build" / "from_header", states, count=many, repeats=REPEATS)
            yield from rows(
                name,
                "surrogate",
                "C++ header",
                {"single_us": 1e-3 * found["single_ns"], "many_us": 1e-3 * found["many_ns"]},
                run_header(folder / "build", states),
                count_parameters(deployable.module),
            )
        build_native(Path(place) / "baseline")
        number = {family: [name.split()[1] for name in steppers if name.startswith(family)] for family in STEPPERS}
        steps, tolerances = [int(n) for n in number["RK4"]], [float(e) for e in number["Cash-Karp"]]
        for entry in native_rows(
            Path(place) / "baseline", states, field, steps, tolerances, count=many, repeats=REPEATS
        ).to_dict("records"):
            words = str(entry["contender"]).split()
            options: dict[str, Any] = (
                {"method": "rk4", "step": longest / int(words[2])}
                if "RK4" in words
                else {"method": "cash_karp", "step": 1000.0, "tolerance": float(words[2])}
            )
            yield from rows(
                str(entry["contender"]).removeprefix("C++ "),
                "classical",
                "C++",
                {"single_us": entry["single_us"], "many_us": entry["us_per_track"]},
                run_native(Path(place) / "baseline", states, field, **options),
                0,
            )


def choose_methods(
    methods: list[Method], quality: list[dict[str, float]]
) -> tuple[list[Method], list[dict[str, float]]]:
    """Methods and their errors; of each family of steppers only as far as the first that is far more accurate, in mean
    and in median, than every surrogate.
    """
    own = [error for method, error in zip(methods, quality, strict=True) if method.kind == "surrogate"]
    floor = {
        name: min((error[name] for error in own), default=0.0) / TOO_ACCURATE
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


def measure(
    methods: list[Method], inputs: torch.Tensor, target: np.ndarray, batches: list[int], budget: float
) -> Iterator[dict[str, Any]]:
    """One row per method and batch."""
    quality = [errors(method, inputs, target) for method in methods]
    methods, quality = choose_methods(methods, quality)
    for batch in batches:
        rows = inputs.repeat(math.ceil(batch / len(inputs)), 1)[:batch].contiguous()
        able = [(method, error) for method, error in zip(methods, quality, strict=True) if batch <= method.largest]
        given = {
            prepare: prepare(rows) for prepare in dict.fromkeys(method.prepare for method, _ in able)
        }  # methods alike share their input
        calls = [partial(method.call, given[method.prepare]) for method, _ in able]
        for (method, error), found in zip(able, time_in_turns(calls, budget, MOST, FEWEST, WARM_UP), strict=True):
            names = {"cost_us": "seconds", "cost_q25_us": "q25", "cost_q75_us": "q75", "cost_least_us": "least"}
            per_track = {new: 1e6 * found.pop(old) / batch for new, old in names.items()}
            print(
                f"  {batch} tracks, {method.contender}, {method.path}: "
                f"{per_track['cost_us']:.3g} us, mean {error['position_mean_mm']:.3g} mm",
                flush=True,
            )
            yield {
                "contender": method.contender,
                "kind": method.kind,
                "path": method.path,
                "batch": batch,
                "parameters": method.parameters,
                **per_track,
                **found,
                **error,
            }


def scaling_figure(rows: pd.DataFrame, contenders: list[str]) -> tuple[Any, pd.DataFrame]:
    """Cost per track against the batch, by contender and runtime."""
    drawn = rows[rows.contender.isin(contenders)]
    with style():
        figure, (axes,) = new_figure(width=6.4, height=4.0)
        marks = dict(zip(drawn.path.unique(), "os^vDPX*<>hd", strict=False))
        for (contender, path), line in drawn.groupby(["contender", "path"], sort=False):
            line = line.sort_values("batch")
            axes.plot(
                line.batch,
                line.cost_us,
                marker=marks[path],
                ms=4,
                lw=1.0,
                color=KIND_COLOR[line.kind.iloc[0]],
                ls="-" if line.kind.iloc[0] == "surrogate" else "--",
                label=f"{contender}, {path}",
            )
        axes.set(xscale="log", yscale="log", xlabel="tracks in one call", ylabel="cost per track [µs]")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, drawn


def setting(config: TracksData, runs: dict[str, Surrogate], options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one leg and field."""
    field = make_field(config.field, config.polarity, config.field_map)
    inputs, target = unseen(config, options.tracks, field)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        methods = list(classical(field, inputs, config.legs == "variable"))
        for name, surrogate in runs.items():
            methods += list(networks(name, surrogate.model, surrogate.deployable, Path(folder)))
        rows = list(measure(methods, inputs, target, options.batches, options.budget))
    if not options.no_native:
        steppers = list(dict.fromkeys(row["contender"] for row in rows if row["path"] == "numba kernel"))
        rows += list(
            native(
                field,
                inputs,
                target,
                {name: surrogate.deployable for name, surrogate in runs.items()},
                steppers,
                options.batches,
            )
        )
    leg = (
        f"{config.z_start:g} to {config.z_end:g} mm"
        if config.legs == "fixed"
        else f"variable, {config.dz_low:g} to {config.dz_high:g} mm"
    )
    return {
        "leg": leg,
        "field": config.field,
        "p_gev": [config.p_low, config.p_high],
        "tracks": len(inputs),
        "rows": rows,
    }


def figures(place: Path, number: int, found: dict[str, Any]) -> None:
    """Frontiers at the smallest and largest batch, the best path of each contender, and the scaling with the batch."""
    table = pd.DataFrame(found["rows"])
    for batch in (table.batch.min(), table.batch.max()):
        best = table[table.batch == batch].sort_values("cost_us").drop_duplicates("contender")
        for kernel in ("propagate", "numba kernel", "C++"):  # one curve for each way to run a stepper
            part = pd.concat(
                [
                    best[best.kind != "classical"],
                    table[(table.batch == batch) & ((table.path == kernel) | (table.contender == "parabola"))],
                ]
            )
            if (part.kind == "classical").sum() > 1:
                figure, drawn = accuracy_against_cost(part.to_dict("records"))
                save_figure(
                    figure,
                    place / f"frontier_{number}_{kernel.replace(' ', '_').replace('+', 'p')}_batch_{batch}",
                    drawn,
                )
    surrogates = list(table[table.kind == "surrogate"].contender.unique())
    figure, drawn = scaling_figure(table, [*surrogates[:2], "RK4 8 steps", "Cash-Karp 0.01 mm", "straight line"])
    save_figure(figure, place / f"scaling_{number}", drawn)


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A number above zero, for a command line."""

    def number(text: str) -> float:
        if not 0 < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: give a number above zero")
        return value

    number.__name__ = kind.__name__  # what argparse calls it
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help="run directories of the system tracks")
    parser.add_argument("--batches", type=positive(int), nargs="+", default=[1, 100, 10_000, 1_000_000])
    parser.add_argument("--budget", type=positive(float), default=2.0, help="seconds per number")
    parser.add_argument("--tracks", type=positive(int), default=20_000, help="fresh tracks for the errors")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/tracks"))
    parser.add_argument("--no-native", action="store_true", help="leave out the C++ programs")
    parser.add_argument("--no-facts", action="store_true", help="add nothing to the facts of the runs")
    options = parser.parse_args()
    for run in options.runs:
        if (why := reason_not_measurable(run, "tracks")) is not None:
            parser.exit(2, f"{why}\n")
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch._dynamo.config.recompile_limit = (
        10_000  # counted per class, not per network: beyond it a compiled network would run eagerly without a word
    )
    groups: dict[str, tuple[TracksData, dict[str, Surrogate], dict[str, str]]] = {}
    for run in dict.fromkeys(options.runs):
        surrogate = load_surrogate(run)
        config = surrogate.config.data
        key = json.dumps(config.model_dump(mode="json", exclude={"seed", "n_tracks", "path"}), sort_keys=True)
        _, members, places = groups.setdefault(key, (config, {}, {}))
        name = surrogate.config.name if surrogate.config.name not in members else Path(run).name
        surrogate.model.eval().requires_grad_(False)
        members[name], places[name] = surrogate, run
    if not groups:
        groups["classical"] = (TracksData(), {}, {})
    result: dict[str, Any] = {
        "protocol": {
            "threads": 1,
            "warm_up": f"1 to {WARM_UP} calls",
            "repeats": f"{FEWEST} to {MOST} in turns",
            "budget_seconds": options.budget,
            "piece": PIECE,
            "statistic": "median and quartiles",
        },
        "machine": {
            "processor": _processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "settings": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for number, (config, members, places) in enumerate(groups.values()):
        print(f"setting {number}: {config.legs} legs, {len(members)} runs", flush=True)
        found = setting(config, members, options)
        result["settings"].append(found)
        (options.out / "timing_results.json").write_text(json.dumps(result, indent=1))
        about = {name: found[name] for name in ("leg", "field", "p_gev", "tracks")} | {
            name: result[name] for name in ("machine", "protocol")
        }
        for name, place in places.items() if not options.no_facts else ():
            kept = runtime_facts(found["rows"], name, {**about, "together": len(members)}, RUNTIMES.errors)
            append_event(place, "runtimes", kept)
        figures(options.out, number, found)
    print(options.out / "timing_results.json")


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.is_file()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
