"""What `surrogates status` and `surrogates report` cost over many runs, beside the same tables by pandas.

    python benchmarks/many_facts.py [--runs 1000] [--epochs 26] [--recipes 50] [--command report]

Prints processor seconds and memory of whole processes, in turn, and writes outputs/benchmarks/many_facts.json, with one
entry a command. The report has figures and an executed notebook; what pandas writes by hand has neither.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

from measured import process_cost, write_result

from thesis_surrogates.core.recorder import open_run

STATUS_BY_HAND = """
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
REPORT_BY_HAND = """
import json, sys
from pathlib import Path
import pandas as pd
import yaml
runs, rows = [], []
for place in sorted(Path(sys.argv[1]).glob("*/run.json")):
    state = json.loads(place.read_text())
    config = yaml.load((place.parent / "config.yaml").read_text(), yaml.CSafeLoader)
    table = pd.read_csv(place.parent / "facts" / "scalars.csv")
    curve = table[(table.split == "validation") & (table.metric == "loss")].set_index("epoch").value
    events = [json.loads(line) for line in (place.parent / "facts" / "events.jsonl").read_text().splitlines()]
    found = next(event for event in reversed(events) if event["moment"] == "evaluated")["rows"]
    seconds = max(event.get("seconds") or 0.0 for event in events)
    fall = curve.iloc[0] - 0.9 * (curve.iloc[0] - curve.min())
    known = {"recipe": str(config["model"]), "seed": config["seed"], "status": state["status"]}
    best = {"best_epoch": curve.idxmin(), "best_loss": curve.min(), "epoch_to_90": (curve <= fall).idxmax()}
    runs.append({**known, **best, "training_seconds": seconds})
    rows += [{**row, "recipe": known["recipe"] if row["kind"] == "surrogate" else ""} for row in found]
out = Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
table = pd.DataFrame(rows)
metrics = [name for name in table if name.endswith("_mm") or name == "cost_us"]
groups = table.groupby(["kind", "contender", "recipe"])[metrics]
summary = groups.agg(["median", "min", "max"])
summary.to_csv(out / "table.csv")
pd.DataFrame(runs).to_csv(out / "runs.csv", index=False)
(out / "table.md").write_text(summary.to_string())
"""
OURS = "import sys; from thesis_surrogates.cli import main; main({words})"
COMMANDS = {
    "status": (OURS.format(words="['status', sys.argv[1]]"), STATUS_BY_HAND),
    "report": (OURS.format(words="['report', sys.argv[1], '--reports', sys.argv[2]]"), REPORT_BY_HAND),
}


def compared_rows(width: int, number: int) -> list[dict]:
    """Rows of a comparison with a few baselines and the surrogate."""
    kinds = {"straight line": "nothing", "RK4 2 steps": "baseline", "RK4 8 steps": "baseline", "mlp": "surrogate"}
    rows = []
    for place, (name, kind) in enumerate(kinds.items()):
        error = 1.0 / width + 1e-3 * (number % 7) if kind == "surrogate" else 10.0 ** (1 - place)
        metrics = {"position_mean_mm": error, "position_p95_mm": 2 * error, "cost_us": 1.0 + place}
        rows.append({"contender": name, "kind": kind, "parameters": 9 * width, "note": "", **metrics})
    return rows


def write_run(folder: Path, number: int, epochs: int, recipes: int) -> None:
    """The facts of one run, made up."""
    width = 1 + number % recipes
    config = {"system": "tracks", "name": f"mlp{width}-seed={number}", "seed": number, "data": {"seed": 0}}
    config |= {"model": {"name": "mlp", "width": width}, "train": {"epochs": epochs}}
    about = {"packages": dict.fromkeys("abcdefghijklm", "1.2.3"), "data_fingerprint": "0123456789abcdef"}
    with open_run(folder / f"run{number}", config, provenance=about) as run:
        for epoch in range(epochs):
            losses = {name: 1 / (1 + epoch + number % 7) for name in ("loss", "data", "physics", "initial")}
            parts = {"metrics": {"train": losses, "validation": losses}, "details": {}, "phase": "training"}
            run(
                SimpleNamespace(moment="epoch_end", epoch=epoch, step=9, seconds=epoch, samples_per_second=1.0, **parts)
            )
        run.event("evaluated", {"split": "test", "rows": compared_rows(width, number), "headline": "position_mean_mm"})


def compare_command(command: str, runs: Path, reports: Path, repeats: int) -> dict[str, float]:
    """Medians of both programs for one command."""
    programs = COMMANDS[command]
    turns = [[process_cost(program, [runs, reports]) for program in programs] for _ in range(repeats)]
    (ours, memory), (hand, hand_memory) = (
        [statistics.median(turn[side][what] for turn in turns) for what in (0, 1)] for side in (0, 1)
    )
    costs = {"cpu_seconds": ours, "mib": memory, "pandas_cpu_seconds": hand, "pandas_mib": hand_memory}
    return {**costs, "ratio": ours / hand}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--recipes", type=int, default=50, help="the other runs repeat them with another seed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--command", choices=COMMANDS, help="one of them; both when left out")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        runs, reports = Path(name) / "runs", Path(name) / "reports"
        for number in range(given.runs):
            write_run(runs, number, given.epochs, given.recipes)
        commands = [given.command] if given.command else list(COMMANDS)
        found = {command: compare_command(command, runs, reports, given.repeats) for command in commands}
    write_result("many_facts", {"runs": given.runs, "epochs": given.epochs, "recipes": given.recipes, **found})


if __name__ == "__main__":
    main()
