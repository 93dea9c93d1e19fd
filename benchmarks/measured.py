"""What the programs of this folder share: the cost of a process, and the end, where a result is written and printed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def process_cost(program: str, words: Sequence[str | Path]) -> tuple[float, float]:
    """Processor seconds and MiB at most of a process that executes Python text with these arguments."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=nowhere)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a program ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def seconds_in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each call, in turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def write_result(name: str, result: Mapping[str, Any]) -> None:
    """Write `outputs/benchmarks/<name>.json`, and print it on one line."""
    out = Path("outputs/benchmarks") / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
