"""The command line: `surrogates`, and the older names `thesis-train` and `thesis-report`.

Hand-written (everything else is exported from notebooks) and import-light: what needs PyTorch is imported inside the
commands. Here are those that make data and execute runs; those that read what runs left stand in `_cli_results`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thesis_surrogates._cli_results import COMMANDS, DATA, RUNS, OtherDataDir, print_table
from thesis_surrogates.core.errors import ConfigError, SurrogatesError


class Commands(typer.core.TyperGroup):
    """The commands below, and those that a system brings, which are built when that system is named."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name; None when there is none."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        from thesis_surrogates.running.registry import SYSTEMS, get_system

        if cmd_name not in SYSTEMS:
            return None
        from thesis_surrogates.running.commands import command_group

        return command_group(get_system(cmd_name))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, compare and publish neural surrogates of slow physics codes.",
    epilog="A system may bring commands of its own, e.g. surrogates tracks --help; surrogates list SYSTEM names them.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the run directories.")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Folder of the generated datasets.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, e.g. --set train.epochs=3 (repeatable).")
]
ModelSeeds = Annotated[
    str,
    typer.Option("--seeds", help="Repeat every run with these model seeds, e.g. 0,1,2; data seeds follow the suite."),
]
Budget = Annotated[float | None, typer.Option("--budget", help="Pause cleanly after this many seconds of training.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


def _show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        from thesis_surrogates import __version__

        typer.echo(f"surrogates {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, compare and publish neural surrogates of slow physics codes."""


@app.command("list")
def list_(system: Annotated[str | None, typer.Argument(help="A system; all, in short, when left out.")] = None) -> None:
    """List systems and their suites; of one system also its question, models, presets and commands."""
    from thesis_surrogates.running.registry import SYSTEMS, get_system, list_suites, report_skipped_runs

    if system is None:  # a record is the last thing of a system that is imported, after PyTorch
        for name in SYSTEMS:
            typer.echo(f"{name}\n  suites    {', '.join(list_suites(name)) or '-'}")
        typer.echo(f"\nsurrogates list {next(iter(SYSTEMS))} shows models, presets and commands of a system")
        return
    record = get_system(system)
    typer.echo(
        f"{system}: {record.title}\n  question  {record.question}\n  models    {', '.join(record.models)}\n"
        f"  headline  {record.terms.headline}\n  suites    {', '.join(list_suites(system)) or '-'}\n"
        f"  presets   {', '.join(record.presets) or '-'}\n  commands  {', '.join(record.commands) or '-'}"
    )
    _print_notes([line for suite in list_suites(system) for line in report_skipped_runs(suite)])


@app.command()
def data(
    targets: Annotated[list[str], typer.Argument(help="Systems (tracks) and/or suites (tracks/demo, a YAML file).")],
    settings: Settings = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", help="A named dataset of the system; of several, a later one wins.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the dataset.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write this file, not one in --data-dir named by its content.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="At most so many processes share the work.")
    ] = 1,
    data_dir: OtherDataDir = None,
    again: Annotated[bool, typer.Option("--again", help="Make the dataset again even if its file exists.")] = False,
) -> None:
    """Generate the datasets of systems or suites; interrupted, a large one goes on when asked for again."""
    from thesis_surrogates.running.datasets import make_datasets
    from thesis_surrogates.running.registry import read_settings

    if out is not None and data_dir is not None:
        raise ConfigError(f"--data-dir {data_dir}: --out names the file already; give one of the two")
    made = make_datasets(
        targets,
        data_dir or DATA,
        presets=preset or (),
        seed=seed,
        overrides=read_settings(settings),
        out=out,
        workers=workers,
        again=again,
    )
    for name, path in made:
        typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A dataset, field map, run directory or export.")]) -> None:
    """Tell what a file holds: columns with units and ranges, values that cannot be, and which key of a run reads it."""
    from thesis_surrogates.running.inspection import inspect_file

    found = inspect_file(file)
    typer.echo(f"{found.to_text()}\n")
    print_table(found.table)


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A run's YAML file, or one run of a suite: tracks/demo:mlp")],
    settings: Settings = None,
    out: Out = RUNS,
    data_dir: DataDir = DATA,
    budget: Budget = None,
    device: Device = "auto",
    here: Annotated[bool, typer.Option("--here", help="In this process instead of a papermill notebook.")] = False,
) -> None:
    """Execute one run (resuming it if it was interrupted)."""
    from thesis_surrogates.running.registry import load_run, read_settings, useless_keys_of

    entry = load_run(config, read_settings(settings))
    _print_notes(useless_keys_of(config, [entry]))
    if here:
        from thesis_surrogates.running.execution import run as execute

        record = execute(entry, out, data_dir=data_dir, budget_seconds=budget, device=device)
        typer.echo(f"{record.status}: {record.path}")
        raise typer.Exit(0 if record.status in ("done", "paused") else 1)
    raise typer.Exit(_sweep([entry], out, data_dir=data_dir, budget_seconds=budget, device=device))


@app.command()
def sweep(
    suites: Annotated[list[str], typer.Argument(help="Suites: tracks/demo, or YAML files.")],
    settings: Settings = None,
    out: Out = RUNS,
    data_dir: DataDir = DATA,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Runs at a time.")] = 2,
    seeds: ModelSeeds = "",
    budget: Budget = None,
    device: Device = "auto",
    measure: Annotated[bool, typer.Option(help="Time all contenders again, alone, at the end.")] = True,
    per_process: Annotated[
        int | None,
        typer.Option("--per-process", min=1, help="So many small runs in turn in one process, without notebooks."),
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Draw figures, with --per-process, too.")] = False,
) -> None:
    """Execute suites, several runs at a time; what is done is skipped."""
    from thesis_surrogates.running.registry import (
        load_suite,
        read_seeds,
        read_settings,
        report_skipped_runs,
        useless_keys_of,
    )
    from thesis_surrogates.running.reports import finished_runs, measure_costs

    over, repeats = read_settings(settings), read_seeds(seeds)
    loaded = {suite: load_suite(suite, over, repeats) for suite in suites}
    for suite, found in loaded.items():
        _print_notes(report_skipped_runs(suite, over, repeats))
        _print_notes(useless_keys_of(suite, found))
    configs = [config for found in loaded.values() for config in found]
    options = {"workers": workers, "budget_seconds": budget, "device": device}
    code = _sweep(configs, out, data_dir=data_dir, per_process=per_process, figures=figures, **options)
    finished = finished_runs(configs, out) if measure else []
    if finished:
        typer.echo(f"measuring the cost of {len(finished)} surrogates and their baselines, one after the other ...")
        measure_costs(finished, out.parent / "sweeps", data_dir)
    raise typer.Exit(code)


def _print_notes(lines: list[str]) -> None:
    """Lines that a user should see and that stop nothing."""
    typer.echo("".join(f"note: {line}\n" for line in lines), err=True, nl=False)


def _sweep(configs: list[Any], out: Path, **options: Any) -> int:
    """Execute runs with a progress display and a table at the end; exit code 1 if any did not end well."""
    from thesis_surrogates.running.progress import sweep_visibly

    jobs = sweep_visibly(configs, out, **options)
    print_table(
        [
            {"run": job.label, "state": job.state, "directory": str(job.run_dir), "message": job.message[:100]}
            for job in jobs
        ]
    )
    return int(any(job.state not in ("done", "paused", "busy") for job in jobs))


@app.command()
def notebook(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs that are done.")],
    figures: Annotated[bool, typer.Option("--figures", help="Draw the figures of the system first.")] = False,
    data_dir: OtherDataDir = None,
) -> None:
    """Make the notebook of runs that shared a process with others, from their facts."""
    from thesis_surrogates.running.templates import make_notebook

    if data_dir is not None and not figures:
        raise ConfigError(f"--data-dir {data_dir}: is read for figures only; add --figures, or leave it out")
    for run_dir in runs:
        if figures:
            from thesis_surrogates.running.execution import draw_figures

            draw_figures(run_dir, data_dir or DATA)
        typer.echo(f"notebook: {make_notebook(run_dir)}")


@app.command()
def jobs(
    suite: Annotated[str, typer.Argument(help="A suite: tracks/core, or a YAML file.")],
    scheduler: Annotated[str, typer.Option("--scheduler", help="htcondor or slurm.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the job files, below the one that they are submitted from.")
    ] = Path("jobs"),
    seeds: ModelSeeds = "",
    hours: Annotated[
        float, typer.Option("--hours", help="Time limit of a job; its run pauses by itself a little before.")
    ] = 2.0,
    cpus: Annotated[int, typer.Option("--cpus", help="Processors of a job.")] = 2,
    gpus: Annotated[int, typer.Option("--gpus", help="Graphics cards of a job.")] = 0,
    memory: Annotated[int, typer.Option("--memory-gb", help="Memory of a job in GB.")] = 8,
    program: Annotated[
        str, typer.Option("--program", help="`surrogates` as the cluster finds it, e.g. .venv/bin/surrogates.")
    ] = "surrogates",
) -> None:
    """Write the job files of a suite: one file per run, their list, and what the scheduler reads."""
    from thesis_surrogates.running.jobs import SCHEDULERS, Request, job_files, write_jobs
    from thesis_surrogates.running.registry import read_seeds, report_skipped_runs

    repeats = read_seeds(seeds)
    _print_notes(report_skipped_runs(suite, seeds=repeats))
    request = Request(hours=hours, cpus=cpus, gpus=gpus, memory_gb=memory)
    files = job_files(suite, scheduler, str(out), seeds=repeats, request=request, program=program)
    write_jobs(files, out)
    name, submit = SCHEDULERS[scheduler]
    typer.echo(f"jobs: {out / name} ({len(files) - 2} runs); start them with: {submit} {out / name}")


for command in COMMANDS:
    app.command()(command)


MOVED_OPTIONS = {  # of `surrogates data`, until version 0.1.0
    "--tracks": "--set data.n_tracks=N",
    "--collocation": "--set data.collocation=N",
    "--trajectories": "--set data.trajectories=N",
    "--momentum": "--preset low, mid or high (also behind another: --preset seed_v1 --preset low)",
}


def _refuse_moved_options(words: list[str]) -> None:
    """Answer an option that is no more with what to write instead."""
    for option in [word.partition("=")[0] for word in words if words[0] == "data"]:
        if option in MOVED_OPTIONS:
            typer.echo(f"error: {option}: no longer an option; write {MOVED_OPTIONS[option]}", err=True)
            raise SystemExit(2)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: an error that the user can repair becomes one line on standard error and exit code 2."""
    _refuse_moved_options(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments)
    except SurrogatesError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:  # a wrong place
        typer.echo(
            f"error: {error.filename}: {(error.strerror or 'cannot be used').lower()}; choose another place", err=True
        )
        raise SystemExit(2) from None


def train_main() -> None:
    """`thesis-train`: the same as `surrogates run`."""
    main(["run", *(sys.argv[1:] or ["--help"])])


def report_main() -> None:
    """`thesis-report`: the same as `surrogates report`."""
    main(["report", *(sys.argv[1:] or ["--help"])])
