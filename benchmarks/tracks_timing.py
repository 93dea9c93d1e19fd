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
import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import onnxruntime
import pandas as pd
import torch
from fresh_tracks import count_errors, draw_fresh_tracks
from timing_methods import PIECE, Method, classical, networks, select_comparable
from timing_native import measure_native

from thesis_surrogates.core.facts import reason_not_measurable
from thesis_surrogates.core.plots import KIND_COLOR, new_figure, save_figure, style
from thesis_surrogates.core.recorder import append_event
from thesis_surrogates.core.runtimes import runtime_facts
from thesis_surrogates.core.surrogate import Surrogate
from thesis_surrogates.core.timing import time_in_turns
from thesis_surrogates.running.execution import load_surrogate
from thesis_surrogates.tracks.data import TracksData
from thesis_surrogates.tracks.field import make_field
from thesis_surrogates.tracks.figures import accuracy_against_cost
from thesis_surrogates.tracks.study.runtimes import RUNTIMES

WARM_UP, FEWEST, MOST = 200, 3, 30  # warm-up calls at most, and repeats as far as the budget of seconds allows


def measure(
    methods: list[Method], inputs: torch.Tensor, target: np.ndarray, batches: list[int], budget: float
) -> Iterator[dict[str, Any]]:
    """One row per method and batch."""
    answers = (torch.as_tensor(method.call(method.prepare(inputs))).cpu().double().numpy() for method in methods)
    quality = [count_errors(answer, target) for answer in answers]
    methods, quality = select_comparable(methods, quality)
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
    inputs, target = draw_fresh_tracks(config, options.tracks, field)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        methods = list(classical(field, inputs, config.legs == "variable"))
        for name, surrogate in runs.items():
            methods += list(networks(name, surrogate.model, surrogate.deployable, Path(folder)))
        rows = list(measure(methods, inputs, target, options.batches, options.budget))
    if not options.no_native:
        steppers = list(dict.fromkeys(row["contender"] for row in rows if row["path"] == "numba kernel"))
        rows += list(
            measure_native(
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
                    best[best.kind != "baseline"],
                    table[(table.batch == batch) & ((table.path == kernel) | (table.contender == "parabola"))],
                ]
            )
            if (part.kind == "baseline").sum() > 1:
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
        surrogate.model.eval()
        members[name], places[name] = surrogate, run
    if not groups:
        groups["baseline"] = (TracksData(), {}, {})
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
