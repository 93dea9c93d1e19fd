"""The commands that read what runs left, and those that look after the package: plain functions, mounted by `cli`.

Hand-written and import-light, as `cli` is: what needs PyTorch is imported inside the commands.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from thesis_surrogates.core.errors import ConfigError

RUNS, DATA = Path("outputs/runs"), Path("data")
SuiteOut = Annotated[
    Path | None, typer.Option("--out", help="Folder with the run directories of a suite; outputs/runs by default.")
]
OtherDataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the generated datasets; data by default.")
]


def suites_folder(targets: list[str], out: Path | None, remedy: str = "leave it out") -> Path:
    """Where the runs of suites are; an option that none of the targets has a use for is refused."""
    from thesis_surrogates.running.reports import is_suite

    if out is not None and not any(map(is_suite, targets)):
        raise ConfigError(
            f"--out {out}: is where the runs of a suite are, and {' and '.join(targets)} is no suite; {remedy}"
        )
    return RUNS if out is None else out


def print_table(rows: Any, columns: list[str] | None = None) -> None:
    """A table that fits the terminal: long texts shortened, columns in blocks; complete and plain in a pipe."""
    import shutil

    from thesis_surrogates.core.tables import to_terminal

    typer.echo(to_terminal(rows, columns, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


def status(path: Annotated[Path, typer.Argument(help="A run directory or a folder of runs.")] = RUNS) -> None:
    """Show where every run stands, from its facts."""
    import shutil

    from thesis_surrogates.running.run_status import status_rows, text_table

    rows = status_rows(path)
    if not rows:
        raise ConfigError(f"{path}: no runs; give a run directory, or a folder that holds some")
    columns = ["name", "system", "seed", "status", "attempt", "epochs"]
    columns += dict.fromkeys(key for row in rows for key in row if key.startswith("best_"))
    columns += [key for key in ("training_seconds", "problem") if any(key in row for row in rows)]
    typer.echo(text_table(rows, columns, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


def compare(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Run directories, folders of runs or suites; outputs/runs by default.")
    ] = None,
    out: SuiteOut = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All baselines, metrics and keys, not only those that decide.")
    ] = False,
) -> None:
    """Compare runs: what differs in their configurations, and how they did beside the baselines."""
    from thesis_surrogates.running.reports import SHOWN_ROWS, compare_runs

    chosen = targets or [str(RUNS)]
    for found in compare_runs(chosen, suites_folder(chosen, out)):
        typer.echo(f"\n{found.title}\n")
        if not found.settings.empty:
            print_table(found.settings if everything else found.settings.head(SHOWN_ROWS))
            typer.echo("")
        print_table(found.table if everything else found.short_table())
        if found.problems():
            typer.echo("\n" + "\n".join(found.problems()[:SHOWN_ROWS]))
        if not everything and found.left_out():
            typer.echo(f"\n{found.left_out()}; surrogates compare {' '.join(targets or [])} --all shows everything")


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Directories of trained runs.")],
    on: Annotated[
        Path | None, typer.Option("--on", help="Take the test split of this file; nothing is added to the facts.")
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Errors on five fresh test sets, added to the facts; once a release.")
    ] = False,
    data_dir: OtherDataDir = None,
) -> None:
    """Evaluate trained runs together, beside the baselines: costs on this machine now, or errors on other test sets."""
    from thesis_surrogates.running.judging import evaluation_tables

    for table in evaluation_tables(runs, on, judge, data_dir):
        print_table(table)


def report(
    targets: Annotated[list[str], typer.Argument(help="Folders of runs or suites.")],
    out: SuiteOut = None,
    reports: Annotated[Path, typer.Option("--reports", help="Folder of the reports.")] = Path("outputs/reports"),
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            help="One axis of the figure of a sweep, e.g. x=train.epochs (repeatable): x, y, hue, style, row, col; "
            "kind=line, box, violin or heat; where.KEY=VALUE.",
        ),
    ] = None,
    style: Annotated[str, typer.Option("--style", help="Look of the figures: screen, paper or dark.")] = "screen",
) -> None:
    """Write tables, figures and a page per system, from facts alone."""
    from thesis_surrogates.running.reports import make_reports, read_comparison

    comparison = read_comparison(compare)
    stray = next((target for target in targets if "=" in target), None) if compare else None
    if stray is not None:
        raise ConfigError(f"{stray}: each axis has an option of its own; write --compare {stray}")
    runs = suites_folder(targets, out, "reports go to --reports")
    for target in targets:
        for folder in make_reports(target, runs, reports, comparison, style):
            typer.echo(f"report: {folder}")


def views(
    targets: Annotated[list[str], typer.Argument(help="Run directories, folders of runs or suites.")],
    out: SuiteOut = None,
) -> None:
    """Write again the files of runs that their system derives from facts (history.json and its like)."""
    from thesis_surrogates.running.execution import write_views
    from thesis_surrogates.running.reports import runs_of

    runs = suites_folder(targets, out, "the files are written into the run directories")
    for target in targets:
        for run_dir in runs_of(target, runs):
            typer.echo(f"views: {run_dir} ({', '.join(path.name for path in write_views(run_dir)) or 'none'})")


def export(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    form: Annotated[str, typer.Option("--format", help="onnx, torchscript, pt2, header or weights (C++).")] = "onnx",
    path: Annotated[
        Path | None, typer.Option("--path", help="Where to write; in the run directory by default.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit-bytes", min=1, help="header only: refuse more bytes of constants, e.g. 65536."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda for torchscript.")] = "cpu",
) -> None:
    """Export a trained surrogate in physical units, checked against PyTorch."""
    from thesis_surrogates.running.exported_files import export_surrogate

    typer.echo(export_surrogate(run_dir, form, path, limit_bytes=limit, device=device))


def publish(
    target: Annotated[str, typer.Argument(help="A folder of runs or a suite.")],
    out: SuiteOut = None,
    published: Annotated[Path, typer.Option("--published", help="Folder of the published facts.")] = Path(
        "outputs/published"
    ),
) -> None:
    """Add the small facts of ended runs, without host names and paths, to the published ones.

    They go to SYSTEM/SUITE/runs.jsonl, baselines.jsonl and scalars.csv; a run of the same configuration is replaced,
    others stay. A curve keeps at most 40 points; a suite of more than 100 runs is published without curves.
    """
    from thesis_surrogates.core.publishing import publish as add
    from thesis_surrogates.running.reports import by_system, is_suite, label_of, runs_of
    from thesis_surrogates.running.results import suite_of

    run_dirs = runs_of(target, suites_folder([target], out, "published facts go to --published"))
    by_system(run_dirs)  # of an unknown system no page would show them
    named = label_of(target) if is_suite(target) else None  # of several suites that hold a run
    for name in add(run_dirs, published, partial(suite_of, named=named)):
        typer.echo(f"published: {name}")


def site(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the built site; _docs of the checkout by default.")
    ] = None,
) -> None:
    """Build the site of a checkout: with Quarto where it is installed, with pandoc otherwise."""
    import subprocess

    from thesis_surrogates._site import FOLDER, REMEDY

    if not (FOLDER / "build.py").is_file():
        typer.echo(f"error: {REMEDY}", err=True)
        raise typer.Exit(2)
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    options = [] if out is None else ["--out", str(out)]
    raise typer.Exit(subprocess.run([sys.executable, str(FOLDER / "build.py"), *options]).returncode)


def doctor() -> None:
    """Tell what this machine has and what is missing."""
    from thesis_surrogates.running.doctor import examine_machine

    checks = examine_machine()
    for check in checks:
        typer.echo(
            f"{'ok     ' if check.good else 'missing' if check.needed else 'without'}  {check.name}: {check.found}"
        )
    raise typer.Exit(int(any(check.needed and not check.good for check in checks)))


COMMANDS = (status, compare, evaluate, report, views, export, publish, site, doctor)
