"""The command line as a person types it, in a process of its own that is forked from one with its imports done.

A fresh Python spends three seconds on importing torch, a forked one none; all else (arguments, folder, environment,
standard streams, exit code) is that of `python -m thesis_surrogates`. Where the start itself is what matters,
test_running starts it for real.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / ".ci"))

from forked import forked_context


def _execute(words: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """What the forked process does: become the command."""
    from thesis_surrogates.cli import main

    for descriptor, path in enumerate((os.devnull, *streams)):
        os.dup2(os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["surrogates", *words]
    main()


def surrogates(
    *words: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 250
) -> subprocess.CompletedProcess[str]:
    """The finished process of the command line with these words in the folder `cwd`: returncode, stdout, stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        for path in streams:
            Path(path).touch()
        words = list(map(str, words))
        process = forked_context().Process(target=_execute, args=(words, str(cwd), environment, streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["surrogates", *words], timeout)
        return subprocess.CompletedProcess(words, process.exitcode, *(Path(path).read_text() for path in streams))
