"""What `surrogates status` costs over many runs, beside the same table by pandas from the same files.

    python benchmarks/many_facts.py [--runs 1000] [--epochs 26]

Prints processor seconds and memory of whole processes, in turn, and writes outputs/benchmarks/many_facts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from thesis_surrogates.core.recorder import open_run

BY_HAND = """
import json, sys
from pathlib import Path
import pandas as pd
rows = []
for place in sorted(Path(sys.argv[1]).glob("*/run.json")):
    state = json.loads(place.read_text())
    table = pd.read_csv(place.parent / "facts" / "scalars.csv")
    curve = table[(table.split == "validation") & (table.metric == "loss")].set_index("epoch").value
    events = [json.loads(line) for line in (place.parent / "facts" / "events.jsonl").read_text().splitlines()]
    seconds = max(event.get("seconds") or 0.0 for event in events)
    row = {"system": state["system"], "name": state["name"], "status": state["status"], "attempt": state["attempt"]}
    best = {"best_epoch": curve.idxmin(), "best_loss": curve.min()}
    rows.append({**row, "epochs": table.epoch.nunique(), **best, "training_seconds": seconds})
print(pd.DataFrame(rows).to_string(index=False))
"""
OURS = "import sys; from thesis_surrogates.cli import main; main(['status', sys.argv[1]])"


def write_run(folder: Path, number: int, epochs: int) -> None:
    """The facts of one run, made up."""
    config = {"system": "tracks", "name": f"run{number}", "seed": number, "model": {"name": "mlp"}}
    with open_run(
        folder / f"run{number}", config, provenance={"packages": dict.fromkeys("abcdefghijklm", "1.2.3")}
    ) as run:
        for epoch in range(epochs):
            losses = {name: 1 / (1 + epoch + number % 7) for name in ("loss", "data", "physics", "initial")}
            parts = {"metrics": {"train": losses, "validation": losses}, "details": {}, "phase": "training"}
            run(
                SimpleNamespace(moment="epoch_end", epoch=epoch, step=9, seconds=epoch, samples_per_second=1.0, **parts)
            )


def cost(program: str, folder: Path) -> tuple[float, float]:
    """Processor seconds and MiB at most of a process."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=nowhere)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a program ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(given.runs):
            write_run(Path(name), number, given.epochs)
        turns = [(cost(OURS, Path(name)), cost(BY_HAND, Path(name))) for _ in range(given.repeats)]
    (ours, memory), (hand, hand_memory) = (
        [statistics.median(turn[side][what] for turn in turns) for what in (0, 1)] for side in (0, 1)
    )
    result = {"runs": given.runs, "epochs": given.epochs, "status_cpu_seconds": ours, "status_mib": memory}
    result |= {"pandas_cpu_seconds": hand, "pandas_mib": hand_memory, "ratio": ours / hand}
    out = Path("outputs/benchmarks/many_facts.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
