"""The command line as a user starts it, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def surrogates(*words: object, cwd: Path, timeout: float = 250, **options: Any) -> subprocess.CompletedProcess[str]:
    """`surrogates` with these words, in a process of its own in the folder `cwd`, on one thread and a wide terminal."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "thesis_surrogates", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=timeout, **options)
