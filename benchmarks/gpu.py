"""Whether everything works on a GPU as on the processor, and how fast: what `make gpu` runs.

    python benchmarks/gpu.py [--device cuda] [--only SYSTEM] [--rows 1 1000000]

For each system, with the first run of its smoke suite: trained through its notebook by papermill on the device; paused
on the processor and ended on the device, and the other way; the network's answers on both, and how far they are apart
over their spread; exports; rows a second on both, for one row and for many. Without a CUDA device it says so in one
line and ends well. `--device cpu` compares the processor with itself, which tests this program. Writes
outputs/benchmarks/gpu.json.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measured import write_result

from thesis_surrogates.core.config import RunConfig
from thesis_surrogates.core.export.deployable import ExportError
from thesis_surrogates.core.surrogate import Surrogate
from thesis_surrogates.core.timing import seconds_per_call
from thesis_surrogates.running.execution import load_surrogate, run, run_directory
from thesis_surrogates.running.exported_files import export_surrogate
from thesis_surrogates.running.registry import SYSTEMS, load_suite

PIECE_ROWS = 65_536  # rows that a device sees at once
EXPORTS = ("onnx", "torchscript")


def run_by_papermill(target: str, device: str, folder: Path) -> str:
    """Status of a run that `surrogates run` made through its notebook, or the last line of what it printed."""
    words = ["run", target, "--device", device, "--out", str(folder / "runs"), "--data-dir", str(folder / "data")]
    command = [sys.executable, "-m", "thesis_surrogates", *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    return "done" if ended.returncode == 0 else (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1]


def resume_across(config: RunConfig, first: str, then: str, folder: Path) -> dict[str, str]:
    """Status of a run after a pause on one device, and after it went on on another."""
    place = folder / f"{first}_{then}"
    paused = run(config, place, data_dir=folder / "data", device=first, budget_seconds=1e-3, progress=False)
    ended = run(config, place, data_dir=folder / "data", device=then, progress=False)
    return {"first": paused.status, "then": ended.status}


def answer(surrogate: Surrogate, device: str, rows: int) -> tuple[list[torch.Tensor], float]:
    """Outputs for so many rows, the example rows of the network again and again, and seconds."""
    module = copy.deepcopy(surrogate.deployable.module).to(device)
    examples = surrogate.deployable.inputs.values()
    inputs = [one.repeat(-(-rows // len(one)), *[1] * (one.dim() - 1))[:rows].to(device) for one in examples]

    def call() -> list[torch.Tensor]:
        pieces = []
        for piece in zip(*(tensor.split(PIECE_ROWS) for tensor in inputs), strict=True):
            found = module(*piece)
            pieces.append(found if isinstance(found, tuple) else (found,))
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    with torch.inference_mode():
        outputs = [output.cpu() for output in call()]
        return outputs, seconds_per_call(call, repeats=5, budget=3.0)


def difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Largest difference of two answers over the spread of each output."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        a, b = a.double(), b.double()
        spread = max(float(b.std()) if b.numel() > 1 else 0.0, float(b.abs().max()) * 1e-3, 1e-12)
        worst = max(worst, float((a - b).abs().max()) / spread)
    return worst


def try_exports(run_dir: Path, folder: Path) -> dict[str, str]:
    """What each form of export says, or why there is none."""
    outcomes = {}
    for form in EXPORTS:
        try:
            outcomes[form] = export_surrogate(run_dir, form, folder / f"model.{form}").rpartition("(")[2].rstrip(")")
        except ExportError as error:
            outcomes[form] = f"not exported: {str(error).splitlines()[0]}"
    return outcomes


def measure(system: str, device: str, rows: Sequence[int], notebook: bool = True) -> dict[str, Any]:
    """All that is asked of one system; `notebook` false leaves papermill out."""
    config = load_suite(f"{system}/smoke")[0]
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), dict[str, Any]()
        if notebook:
            found["papermill"] = run_by_papermill(f"{system}/smoke:{config.name}", device, folder)
        found["cpu_then_device"] = resume_across(config, "cpu", device, folder)
        found["device_then_cpu"] = resume_across(config, device, "cpu", folder)
        run_dir = run_directory(config, folder / f"cpu_{device}")
        surrogate = load_surrogate(run_dir)
        found["exports"] = try_exports(run_dir, folder)
        found["rows"] = {}
        for count in rows:
            (there, fast), (here, slow) = (answer(surrogate, where, count) for where in (device, "cpu"))
            speeds = {"rows_per_s": count / fast, "rows_per_s_cpu": count / slow}
            found["rows"][count] = {**speeds, "largest_difference_of_spread": difference(there, here)}
    return found


def is_well(found: dict[str, Any]) -> bool:
    """Whether a system ended all its runs and gave the same answers on both devices."""
    resumed = all(found[key]["then"] == "done" for key in ("cpu_then_device", "device_then_cpu"))
    same = all(one["largest_difference_of_spread"] < 1e-2 for one in found["rows"].values())
    return resumed and same and found.get("papermill", "done") == "done"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu as a test of this program")
    parser.add_argument("--only", choices=list(SYSTEMS), help="one system")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 1_000_000])
    options = parser.parse_args(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing to run")
        return 0
    began, name = time.monotonic(), options.device
    name = torch.cuda.get_device_name(options.device) if name.startswith("cuda") else name
    systems = [options.only] if options.only else list(SYSTEMS)
    found = {}
    for system in systems:
        found[system] = measure(system, options.device, options.rows)
        print(f"{system}: {'well' if is_well(found[system]) else 'NOT WELL'}, {found[system]}", flush=True)
    seconds = time.monotonic() - began
    write_result("gpu", {"device": name, "torch": torch.__version__, "seconds": seconds, "systems": found})
    return 0 if all(map(is_well, found.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
