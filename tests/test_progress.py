"""Lines that say how far it is: drawn where somebody watches, written once in a file, not stored in a notebook."""

from __future__ import annotations

import io

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from thesis_surrogates.core.plan import Event
from thesis_surrogates.core.progress import show_progress
from thesis_surrogates.running.epoch_bar import EpochBar
from thesis_surrogates.running.progress import show_sweep
from thesis_surrogates.running.registry import load_suite
from thesis_surrogates.running.sweeps import Job

BAR = "━"


class Terminal(io.StringIO):
    """A stream that says somebody watches it."""

    def isatty(self) -> bool:
        return True


def train(bar: EpochBar, end: str, first: int = 0) -> None:
    """The events of three epochs, beginning with `first`."""
    bar(Event(moment="start", epoch=first, step=0, details={"epochs": 3}))
    for epoch in range(first, 3):
        bar.drawn_at_second = 0.0  # as if the epoch had taken a while
        bar(Event(moment="epoch_end", epoch=epoch, step=epoch, metrics={"validation": {"loss": 0.25}}))
    bar(Event(moment=end, epoch=3, step=3))


@pytest.mark.parametrize("end", ["end", "paused", "exception"])
def test_a_terminal_sees_each_epoch_and_has_its_cursor_back(end):
    terminal = Terminal()
    train(EpochBar("toy", terminal), end)
    text = terminal.getvalue()
    assert all(f"{number}/3" in text for number in (1, 2, 3)) and "validation 0.25" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_a_resumed_run_goes_on_where_it_was():
    terminal = Terminal()
    train(EpochBar("toy", terminal), "end", first=1)
    assert "1/3" in terminal.getvalue() and "0/3" not in terminal.getvalue()


def test_a_log_file_gets_one_line_even_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a Jupyter kernel does
    log = io.StringIO()
    train(EpochBar("toy", log), "end")
    assert log.getvalue().count("toy") == 1 and "3/3" in log.getvalue() and "\x1b" not in log.getvalue()


def test_data_are_made_in_silence_where_nobody_watches(capfd):
    with show_progress("toy", 2) as tell:
        tell(1)
        tell(2)
    assert capfd.readouterr() == ("", "")


def test_a_line_ends_with_the_error_that_ends_its_work():
    terminal = Terminal()
    with pytest.raises(ValueError, match="torn"), show_progress("toy", 2, terminal) as tell:
        tell(1)
        raise ValueError("torn")
    assert "1/2" in terminal.getvalue() and terminal.getvalue().count("\x1b[?25h") == 1


def test_a_notebook_shows_epochs_while_it_runs_and_stores_none():
    """In a kernel, with the bar asked for: the line is there during the training, and the saved notebook holds
    neither it nor a widget.
    """
    code = """
from thesis_surrogates.core.plan import Event
from thesis_surrogates.running.epoch_bar import EpochBar, NotebookLine
seen, write = [], NotebookLine.write
NotebookLine.write = lambda self, text: (seen.append(text), write(self, text))
bar = EpochBar("toy")
bar(Event(moment="start", epoch=0, step=0, details={"epochs": 2}))
bar(Event(moment="epoch_end", epoch=0, step=1, metrics={"validation": {"loss": 0.25}}))
bar(Event(moment="end", epoch=2, step=2))
assert "1/2" in seen[0] and "validation 0.25" in seen[0] and seen[-1] == "", seen
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    stored = notebook.cells[0].outputs
    assert [dict(output.get("data", {})) for output in stored] == [{"text/plain": ""}], stored
    assert BAR not in nbformat.writes(notebook)


@pytest.mark.parametrize("watched", [True, False])
def test_a_sweep_is_drawn_in_a_terminal_and_written_in_a_file(tmp_path, watched):
    jobs = [Job(config, tmp_path / config.name) for config in load_suite("tracks/demo")[:2]]
    stream = Terminal() if watched else io.StringIO()
    console = Console(file=stream, force_terminal=watched, force_jupyter=False, width=120)
    with show_sweep(workers=1, console=console, every_seconds=1e9) as show:
        show(jobs)
        jobs[0].state, jobs[0].epoch, jobs[0].epochs = "running", 5, 20
        show(jobs)
        jobs[0].state, jobs[0].message, jobs[0].seconds = "failed", "[torn]", 60.0
        show(jobs)
        show(jobs)
    text = stream.getvalue()
    assert (BAR in text) == watched and jobs[0].label in text and "failed" in text
    if watched:
        assert "all runs" in text and "5/20" in text and "about 0:01:00 left" in text and jobs[1].label not in text
    else:
        assert text.splitlines() == [f"[0/2] {jobs[0].label} running", f"[1/2] {jobs[0].label} failed: [torn]"]
