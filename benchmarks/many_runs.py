"""What a run of one step costs in a process shared with others, beside the same run by papermill in its own.

    python benchmarks/many_runs.py [--system tracks] [--runs 50] [--alone 3]

Prints processor seconds a run, starting and the sweep itself included, and writes outputs/benchmarks/many_runs.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from measured import write_result

from thesis_surrogates.core.config import as_mapping
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import run
from thesis_surrogates.running.registry import get_system, load_suite, resolve

ONE_STEP = {"orbits": {"length_strategy": [[0.0, 1.0]], "steps_strategy": [1], "validate_every": 1}}


def one_step(system: str, seed: int) -> dict:
    """A run of the system's smallest model for one step, as a mapping."""
    values = as_mapping(load_suite(f"{system}/smoke")[0])
    kept = {key: value for key, value in values["train"].items() if key != "epochs"}
    train = {**kept, **ONE_STEP.get(system, {"epochs": 1, "batch_size": 1_000_000})}
    return {**values, "name": f"step{seed}", "seed": seed, "train": train}


def children_seconds() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sweep_seconds(folder: Path, system: str, runs: int, words: list[str]) -> float:
    """Processor seconds a run of a sweep of so many."""
    suite = folder / f"{'shared' if words else 'alone'}.yaml"
    suite.write_text(yaml.safe_dump({"runs": {f"step{seed}": one_step(system, seed) for seed in range(runs)}}))
    command = [sys.executable, "-m", "thesis_surrogates", "sweep", str(suite), "--no-measure", "--workers", "1"]
    began = children_seconds()
    places = ["--data-dir", str(folder / "data"), "--out", str(folder / suite.stem)]
    subprocess.run([*command, *places, *words], check=True, stdout=subprocess.DEVNULL)
    return (children_seconds() - began) / runs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", default="tracks")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--alone", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), resolve(one_step(given.system, 0))
        ensure_dataset(get_system(given.system), first.data, folder / "data")
        run(first, out=folder / "first", data_dir=folder / "data")  # baselines are scored once, for both
        shared = sweep_seconds(folder, given.system, given.runs, ["--per-process", str(given.runs)])
        alone = sweep_seconds(folder, given.system, given.alone, [])
    result = {
        "system": given.system,
        "runs": given.runs,
        "shared_cpu_seconds_a_run": shared,
        "papermill_cpu_seconds_a_run": alone,
        "ratio": shared / alone,
    }
    write_result("many_runs", result)


if __name__ == "__main__":
    main()
