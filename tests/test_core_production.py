"""Production in parts: the same bytes from one or two processes, after a kill, and errors in plain words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from thesis_surrogates.core.data import numpy_rng
from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.files import file_fingerprint
from thesis_surrogates.core.hdf5 import Hdf5Writer, read_hdf5
from thesis_surrogates.core.production import Production, append_pieces, count_rows, produce


def walk(seed, number):
    """A slow part of between 50 and 100 rows."""
    time.sleep(0.02)
    rng = numpy_rng(seed, "walk", number)
    return {"x": rng.normal(size=(int(rng.integers(50, 100)), 3)), "drawn": np.array(100)}


def walker(seed):
    return partial(walk, seed)


def breaks(seed):
    raise RuntimeError("no such field")


def write(path, pieces):
    with Hdf5Writer(path) as writer:
        found, drawn = append_pieces(writer, pieces)
        writer.attrs({"found": found, "drawn": drawn})


def walks(rows, seed=0, **changes):
    recipe = {"description": {"seed": seed}, "rows": rows, "prepare": partial(walker, seed), "write": write}
    return Production(**{**recipe, **changes})


def test_one_and_two_processes_write_the_same_bytes(tmp_path):
    produce(walks(1000), tmp_path / "one.h5")
    produce(walks(1000), tmp_path / "two.h5", workers=2)
    assert file_fingerprint(tmp_path / "one.h5") == file_fingerprint(tmp_path / "two.h5")
    columns, attrs = read_hdf5(tmp_path / "one.h5")
    assert len(columns["x"]) == attrs["found"] == 1000 and attrs["drawn"] % 100 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "two.h5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_it_goes_on_to_the_same_bytes(tmp_path, workers):
    produce(walks(3000), tmp_path / "whole.h5")
    script = tmp_path / "make.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_core_production import produce, walks
        if __name__ == "__main__":
            produce(walks(3000), Path(sys.argv[1]), int(sys.argv[2]))
        """)
    )
    path, folder = tmp_path / "killed.h5", tmp_path / ".killed.h5.parts"
    process = subprocess.Popen([sys.executable, script, path, str(workers)], stderr=subprocess.DEVNULL)
    while not list(folder.glob("0*.npz")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the others notice that they are alone
    kept = {part: part.stat().st_mtime_ns for part in folder.glob("0*.npz")}
    assert kept and not path.exists()
    (folder / f".000999-00001-00001.npz.{os.getpid()}").write_bytes(b"truncated")
    subprocess.run([sys.executable, script, path, str(workers)], check=True, stderr=subprocess.DEVNULL)
    assert file_fingerprint(path) == file_fingerprint(tmp_path / "whole.h5")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["killed.h5", "make.py", "whole.h5"]


def test_parts_that_are_there_are_used(tmp_path):
    def interrupted(seed):
        def make(number):
            if number == 3:
                raise KeyboardInterrupt
            return walk(seed, number)

        return make

    with pytest.raises(KeyboardInterrupt):
        produce(walks(500, prepare=partial(interrupted, 0)), tmp_path / "x.h5")
    made = []

    def counted(number):
        made.append(number)
        return walk(0, number)

    produce(walks(500, prepare=lambda: counted), tmp_path / "x.h5")
    assert made and min(made) == 3


def test_a_process_that_fails_ends_the_production_in_words(tmp_path, capfd):
    with pytest.raises(DataError, match="ended with code 1 before the dataset was complete"):
        produce(walks(500, prepare=partial(breaks, 0)), tmp_path / "x.h5", workers=2)
    assert "no such field" in capfd.readouterr().err, "the reason is shown"
    assert not (tmp_path / "x.h5").exists()


def test_another_dataset_and_a_hopeless_one_are_refused(tmp_path):
    def hopeless(found, drawn):
        if found < 0.99 * drawn:
            raise DataError(f"only {found} of {drawn} rows are kept")

    with pytest.raises(DataError, match="rows are kept"):
        produce(walks(500, check_yield=hopeless), tmp_path / "x.h5")
    with pytest.raises(DataError, match="beginnings of another dataset"):
        produce(walks(500, seed=1), tmp_path / "x.h5")


def test_rows_without_rejection_need_no_count_of_their_own(tmp_path):
    def plain():
        return lambda number: {"x": np.full(10, number)}

    produce(walks(25, prepare=plain), tmp_path / "x.h5")
    columns, attrs = read_hdf5(tmp_path / "x.h5")
    assert columns["x"].tolist() == [0] * 10 + [1] * 10 + [2] * 5 and attrs["found"] == 25
    assert count_rows({"drawn": np.array(3), "x": np.zeros((2, 4))}) == 2
