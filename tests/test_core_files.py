"""Files that are never half-written, one lock for all, one family of errors, one table of moments."""

from __future__ import annotations

import ast
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest

from thesis_surrogates.core.errors import SurrogatesError
from thesis_surrogates.core.facts import find_runs, read_run
from thesis_surrogates.core.files import FileLock, atomic, package_folder, replace_text
from thesis_surrogates.core.recorder import MOMENTS, fits_table
from thesis_surrogates.core.run_files import RunBusy, take_lock

PACKAGE = package_folder()
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "_modidx.py"]


def test_old_or_new_and_never_between(tmp_path):
    """A reader that looks all the time sees whole contents only."""
    path = tmp_path / "deep" / "state.json"
    replace_text(path, "0" * 10_000)
    seen, stop = set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(30):
        replace_text(path, str(number % 10) * 10_000)
    stop.set()
    reader.join()
    assert {len(text) for text in seen} == {10_000} and all(len(set(text)) == 1 for text in seen)
    assert [found.name for found in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "data.h5"
    replace_text(path, "old")
    with pytest.raises(error), atomic(path) as partial:
        partial.write_text("ne")
        raise error
    assert path.read_text() == "old" and [found.name for found in tmp_path.iterdir()] == ["data.h5"]


def test_a_writer_that_writes_nothing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


def test_bytes_are_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch):
    """Flush the file, rename, flush the folder, in this order."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    with atomic(tmp_path / "map.npz") as partial:
        partial.write_bytes(b"whole")
        assert partial.suffix == ".npz" and partial.parent == tmp_path and partial.name.startswith(".map.npz.")
    assert calls == [str(partial), "rename", str(tmp_path)]


def test_a_flush_that_fails_gives_no_name(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    replace_text(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_every_file_of_the_package_is_renamed_in_one_place():
    """Nobody else renames, flushes or locks by hand."""
    by_hand = ("os.replace(", "os.rename(", "os.fsync(", "fcntl.")
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in MODULES
        for word in by_hand
        if word in path.read_text("utf-8")
    ]
    assert sorted({line.split(":")[0] for line in found}) == ["core/files.py"], found


def hold(path: str, seconds: float) -> None:
    FileLock(path).take()
    time.sleep(seconds)


def test_a_lock_has_one_holder_who_can_be_named(tmp_path):
    place = tmp_path / ".lock"
    other = multiprocessing.get_context("fork").Process(target=hold, args=(str(place), 60))
    other.start()
    lock = FileLock(place)
    while not lock.is_taken():
        time.sleep(0.01)
    start = time.monotonic()
    assert not lock.take(patience_seconds=0) and time.monotonic() - start < 1
    with pytest.raises(
        RunBusy, match=rf"another process \({other.pid} on .*\) is writing to this run; wait for it or stop it"
    ):
        take_lock(place, patience_seconds=0.05)
    other.kill()
    other.join()
    assert (
        not lock.is_taken()
        and lock.take(patience_seconds=0)
        and lock.holder().startswith(f"another process ({os.getpid()} on ")
    )
    assert lock.is_taken() and not FileLock(place).take(patience_seconds=0)
    lock.release()
    lock.release()
    assert not lock.is_taken()


def test_a_lock_that_is_held_can_be_entered(tmp_path):
    lock = FileLock(tmp_path / "lock")
    assert lock.take(patience_seconds=0)
    with lock:  # waiting for oneself would never end
        assert lock.take(patience_seconds=0)
    assert not lock.is_taken()


def test_asking_leaves_no_file(tmp_path):
    assert not FileLock(tmp_path / "none").is_taken() and not list(tmp_path.iterdir())


def test_a_waiting_writer_gets_the_lock(tmp_path):
    other = multiprocessing.get_context("fork").Process(target=hold, args=(str(tmp_path / "lock"), 0.5))
    other.start()
    while not FileLock(tmp_path / "lock").is_taken():
        time.sleep(0.01)
    with FileLock(tmp_path / "lock") as lock:
        assert lock.is_taken() and lock.holder().startswith(f"another process ({os.getpid()} on ")
    other.join()


def test_the_package_is_found_without_importing_it():
    code = (
        "import sys; from thesis_surrogates.core.files import package_folder; folder = package_folder(); "
        "assert (folder / 'core' / 'files.py').is_file(); "
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def errors_of(path: Path) -> list[str]:
    """Names of the classes of a file that are called after an exception or derive from one."""
    classes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
    return [c.name for c in classes]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if errors_of(path)], ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_every_error_of_the_package_can_be_caught_as_one(path):
    """Contract of the command line: what is ours and can be repaired derives from `SurrogatesError`."""
    if path.name == "__main__.py":
        return
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = import_module(dotted)
    own = [getattr(module, name) for name in errors_of(path) if isinstance(getattr(module, name, None), type)]
    errors = [kind for kind in own if issubclass(kind, BaseException)]
    apart = [kind.__name__ for kind in errors if not issubclass(kind, SurrogatesError)]
    assert not apart, f"{dotted}: derive {apart} from SurrogatesError too, beside ValueError or RuntimeError"


@pytest.mark.parametrize(
    ("place", "name", "base"),
    [
        ("core.errors", "ConfigError", ValueError),
        ("core.errors", "DataError", ValueError),
        ("core.errors", "FactsError", ValueError),
        ("core.run_files", "RunBusy", ValueError),
        ("core.tables", "ReportError", ValueError),
        ("core.export.onnx", "ExportError", RuntimeError),
        ("core.export.jacobian", "DerivativeError", NotImplementedError),
        ("core.training", "TrainingDiverged", RuntimeError),
        ("orbits.coordinates", "UnitsError", ValueError),
        ("orbits.segments", "SegmentError", ValueError),
        ("tracks.analytic_fields", "FieldError", ValueError),
        ("tracks.propagation", "PropagationError", ValueError),
        ("tracks.exchange.native", "NativeError", RuntimeError),
        ("tracks.exchange.lhcb_output", "LhcbOutputError", ValueError),
    ],
)
def test_older_programs_catch_what_they_caught(place, name, base):
    kind = getattr(import_module(f"thesis_surrogates.{place}"), name)
    assert issubclass(kind, SurrogatesError) and issubclass(kind, base)


def test_the_command_line_shows_ours_as_a_line_and_leaves_the_rest(monkeypatch, capsys):
    from thesis_surrogates import cli

    def fail(error: Exception):
        def app(args: list[str] | None) -> None:
            raise error

        return app

    monkeypatch.setattr(cli, "app", fail(SurrogatesError("lower the rate")))
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2 and capsys.readouterr().err == "error: lower the rate\n"
    monkeypatch.setattr(cli, "app", fail(ValueError("a fault of the program")))
    with pytest.raises(ValueError, match="a fault of the program"):
        cli.main([])


def literal_moments(path: Path) -> set[str]:
    """Moments that a file hands to the recorder or to the callbacks of the loop, read from its text."""
    found = set()
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        place = {"event": 0, "tell": 0, "append_event": 1}.get(name)
        if place is not None and len(call.args) > place and isinstance(call.args[place], ast.Constant):
            found.add(call.args[place].value)
    return found


def test_all_moments_stand_in_one_table():
    places = [*MODULES, *(PACKAGE.parent / "benchmarks").rglob("*.py")]
    written = {moment for path in places for moment in literal_moments(path) if isinstance(moment, str)}
    assert written == set(MOMENTS), f"in the table and not written, or the other way: {written ^ set(MOMENTS)}"


def test_events_of_a_run_have_the_keys_of_the_table(tmp_path):
    """Paused, taken up, ended, evaluated again, and one that broke: every event that a run can write by itself."""
    from thesis_surrogates.running.execution import run
    from thesis_surrogates.running.judging import judge_run
    from thesis_surrogates.running.side_by_side import evaluate_runs

    config = {
        "system": "tracks",
        "model": {"name": "residual", "hidden": [4]},
        "data": {"n_tracks": 300},
        "train": {"epochs": 2, "steps_per_epoch": 2, "batch_size": 16},
        "evaluate_on": ["train"],
    }
    run(config, tmp_path / "runs", data_dir=tmp_path, budget_seconds=0.0, progress=False)
    whole = run(config, tmp_path / "runs", data_dir=tmp_path, progress=False)
    evaluate_runs([whole.path], data_dir=tmp_path)
    judge_run(whole.path, data_dir=tmp_path)

    def breaks(event) -> None:
        if event.moment == "phase_start":
            raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError):
        run({**config, "seed": 1}, tmp_path / "broken", data_dir=tmp_path, progress=False, callbacks=(breaks,))
    (broken,) = find_runs(tmp_path / "broken")
    events = [*read_run(whole.path).events, *read_run(broken).events]
    wrong = [(event["moment"], sorted(event)) for event in events if not fits_table(event)]
    assert not wrong
    assert {event["moment"] for event in events} == set(MOMENTS) - {"runtimes", "tabulated", "trust", "watcher_failed"}


def test_measurements_have_the_keys_of_the_table():
    from thesis_surrogates.tracks.study.trust_tables import PARTS

    assert set(PARTS) < set(MOMENTS["trust"]) and {"batches", "rows", "..."} < set(MOMENTS["runtimes"])
