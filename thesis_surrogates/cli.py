"""The command line: `surrogates`, and the older names `thesis-train` and `thesis-report`.

Hand-written (everything else is exported from notebooks) and import-light: what needs PyTorch is imported inside the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thesis_surrogates.core.errors import SurrogatesError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, compare and publish neural surrogates of slow physics codes.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the run directories.")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Folder of the generated datasets.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, e.g. --set train.epochs=3 (repeatable).")
]
Budget = Annotated[float | None, typer.Option("--budget", help="Pause cleanly after this many seconds of training.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
RUNS, DATA = Path("outputs/runs"), Path("data")


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


def _print_table(rows: Any, columns: list[str] | None = None) -> None:
    """A table that fits the terminal: long texts shortened, columns in blocks; complete and plain in a pipe."""
    import shutil

    import pandas as pd

    table = pd.DataFrame(rows)
    table = table[[column for column in columns if column in table]] if columns else table
    if table.empty:
        return typer.echo("nothing yet")
    form: dict[str, Any] = {"float_format": lambda value: f"{value:.4g}", "na_rep": "-"}
    if not sys.stdout.isatty():
        return typer.echo(table.to_string(index=False, **form))
    width = shutil.get_terminal_size().columns
    longest = max(8, width // 3)
    table = (
        table.dropna(axis=1, how="all")
        .rename(columns=str)
        .map(lambda value: value if not isinstance(value, str) or len(value) <= longest else value[: longest - 1] + "…")
    )
    table.columns = [name if len(name) <= longest else "…" + name[1 - longest :] for name in table.columns]
    first = next((name for name in ("contender", "run", "name") if name in table), table.columns[0])
    typer.echo(table.set_index(first).rename_axis(columns=first, index=None).to_string(line_width=width, **form))


@app.command("list")
def list_(system: Annotated[str | None, typer.Argument(help="A system; all when left out.")] = None) -> None:
    """List systems, their models and the suites."""
    from thesis_surrogates.running.registry import SYSTEMS, get_system, suites

    for name in [system] if system else list(SYSTEMS):
        record = get_system(name)
        typer.echo(
            f"{name}: {record.title}\n  question  {record.question}\n  models    {', '.join(record.models)}\n"
            f"  headline  {record.headline}\n  suites    {', '.join(suites(name)) or '-'}"
        )


@app.command()
def data(
    targets: Annotated[list[str], typer.Argument(help="Systems (tracks) and/or suites (tracks/demo, a YAML file).")],
    settings: Settings = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="A named dataset of the system, e.g. seed_v1 of tracks.")
    ] = None,
    tracks: Annotated[int | None, typer.Option("--tracks", help="How many tracks, e.g. 50_000_000.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the dataset.")] = None,
    collocation: Annotated[
        int | None, typer.Option("--collocation", help="tracks: also store the state at so many points of each leg.")
    ] = None,
    trajectories: Annotated[
        int | None, typer.Option("--trajectories", help="tracks: also store each track on so many planes.")
    ] = None,
    momentum: Annotated[
        str | None, typer.Option("--momentum", help="tracks: low (0.5 to 5 GeV), mid (5 to 20) or high (20 to 100).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write this file (.h5, for tracks also .npz), not one named by its content."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes that share the work.")] = 1,
    data_dir: DataDir = DATA,
    again: Annotated[bool, typer.Option("--again", help="Make the dataset again even if its file exists.")] = False,
) -> None:
    """Generate the datasets of systems or suites; interrupted, a large one goes on when asked for again."""
    from thesis_surrogates.core.errors import ConfigError
    from thesis_surrogates.running.datasets import chosen_dataset, ensure_dataset, write_dataset
    from thesis_surrogates.running.registry import SYSTEMS, get_system, load_suite, overrides

    given: dict[str, Any] = {"n_tracks": tracks, "seed": seed, "collocation": collocation, "trajectories": trajectories}
    of_tracks = [
        f"--{key}"
        for key, value in (("collocation", collocation), ("trajectories", trajectories), ("momentum", momentum))
        if value is not None
    ]
    if any(target not in SYSTEMS for target in targets) and (
        preset or out or of_tracks or tracks is not None or seed is not None
    ):
        raise ConfigError(
            "options that describe one dataset (--preset, --tracks, --seed, --out and the like) need the name of a system, not of a suite"
        )
    if of_tracks and targets != ["tracks"]:
        raise ConfigError(f"{of_tracks[0]} is for tracks only; leave it out")
    if momentum is not None:
        from thesis_surrogates.tracks.exchange.merge_split import momentum_band

        given |= momentum_band(momentum)
    if out is not None and len(targets) > 1:
        raise ConfigError("--out is one file; give one system")
    done = set()
    for target in targets:
        if target in SYSTEMS:
            wanted = [(target, chosen_dataset(get_system(target), preset, given, overrides(settings or [])))]
        else:
            wanted = [(config.system, config.data) for config in load_suite(target)]
        for name, config in wanted:
            fresh = again and (name, config) not in done
            if out is not None:
                write_dataset(get_system(name), config, out, again=fresh, workers=workers)
            path = out or ensure_dataset(get_system(name), config, data_dir, again=fresh, workers=workers)
            if (name, config) not in done:
                typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
            done.add((name, config))


tracks_app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.add_typer(tracks_app, name="tracks", help="Merge, split and convert files of tracks.")


@tracks_app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files of tracks (.h5 or .npz) of one field and polarity.")],
    out: Annotated[Path, typer.Option("--out", help="The merged file (.h5 or .npz).")],
) -> None:
    """Put files of tracks together (one file is converted); refuses files that do not agree and tracks that are there twice."""
    from thesis_surrogates.tracks.exchange.merge_split import merge as join

    typer.echo(f"merged: {out} ({join(files, out)} tracks)")


@tracks_app.command()
def split(
    file: Annotated[Path, typer.Argument(help="A file of tracks (.h5 or .npz).")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to write; beside the file by default.")] = None,
) -> None:
    """Divide a file of tracks by momentum: low 0.5 to 5, mid 5 to 20, high 20 to 100 GeV."""
    from thesis_surrogates.tracks.exchange.merge_split import split_by_momentum

    for path, rows in split_by_momentum(file, folder or file.parent).items():
        typer.echo(f"split: {path} ({rows} tracks)")


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
    from thesis_surrogates.core.config import merge
    from thesis_surrogates.running.registry import overrides, read_run_values, resolve

    entry = resolve(merge(read_run_values(config), overrides(settings or [])))
    if here:
        from thesis_surrogates.running.execution import run as execute

        record = execute(entry, out, data_dir=data_dir, budget_seconds=budget, device=device)
        typer.echo(f"{record.status}: {record.path}")
        raise typer.Exit(0 if record.status in ("done", "paused") else 1)
    raise typer.Exit(_sweep([entry], out, data_dir, 1, budget, device))


@app.command()
def sweep(
    suites: Annotated[list[str], typer.Argument(help="Suites: tracks/demo, or YAML files.")],
    settings: Settings = None,
    out: Out = RUNS,
    data_dir: DataDir = DATA,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Runs at a time.")] = 2,
    seeds: Annotated[str, typer.Option("--seeds", help="Repeat every run with these seeds, e.g. 0,1,2.")] = "",
    budget: Budget = None,
    device: Device = "auto",
    measure: Annotated[bool, typer.Option(help="Time all contenders again, alone, at the end.")] = True,
) -> None:
    """Execute suites, several runs at a time; what is done is skipped."""
    from thesis_surrogates.core.config import as_mapping, merge
    from thesis_surrogates.running.registry import load_suite, overrides, resolve, seed_list

    over = overrides(settings or [])
    repeats = [{"seed": seed} for seed in seed_list(seeds)] or [{}]
    configs = [
        resolve(merge(merge(as_mapping(config), over), repeat))
        for suite in suites
        for repeat in repeats
        for config in load_suite(suite)
    ]
    code = _sweep(configs, out, data_dir, workers, budget, device)
    if measure:
        _measure(configs, out, data_dir)
    raise typer.Exit(code)


def _sweep(configs: list[Any], out: Path, data_dir: Path, workers: int, budget: float | None, device: str) -> int:
    """Run configurations with a progress display; exit code 1 if any did not end well."""
    import signal

    from thesis_surrogates.running.progress import SweepProgress
    from thesis_surrogates.running.sweeps import sweep as execute

    # A batch system ends a job with SIGTERM; as an exception it lets the sweep stop its own processes first.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with SweepProgress(workers) as show:
        jobs = execute(
            configs, out, data_dir=data_dir, workers=workers, budget_seconds=budget, device=device, watch=show
        )
    _print_table(
        [
            {"run": job.label, "state": job.state, "directory": str(job.run_dir), "message": job.message[:100]}
            for job in jobs
        ]
    )
    return int(any(job.state not in ("done", "paused", "busy") for job in jobs))


def _measure(configs: list[Any], out: Path, data_dir: Path) -> None:
    """Evaluate all finished runs one after the other in one quiet process."""
    from thesis_surrogates.core.facts import read_run
    from thesis_surrogates.running.execution import run_directory
    from thesis_surrogates.running.registry import experiments_folder
    from thesis_surrogates.running.templates import execute_notebook

    finished = [path for config in configs if read_run(path := run_directory(config, out)).status == "done"]
    if finished:
        typer.echo(f"measuring the cost of {len(finished)} surrogates and their baselines, one after the other ...")
        execute_notebook(
            experiments_folder() / "evaluate.ipynb",
            out.parent / "sweeps" / "evaluate.ipynb",
            {"run_dirs": [str(path.resolve()) for path in finished], "data_dir": str(data_dir.resolve())},
        )


@app.command()
def jobs(
    suite: Annotated[str, typer.Argument(help="A suite: tracks/core, or a YAML file.")],
    scheduler: Annotated[str, typer.Option("--scheduler", help="htcondor or slurm.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the job files, below the one that they are submitted from.")
    ] = Path("jobs"),
    seeds: Annotated[str, typer.Option("--seeds", help="Repeat every run with these seeds, e.g. 0,1,2.")] = "",
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
    from thesis_surrogates.running.registry import seed_list

    request = Request(hours=hours, cpus=cpus, gpus=gpus, memory_gb=memory)
    files = job_files(suite, scheduler, str(out), seeds=seed_list(seeds), request=request, program=program)
    write_jobs(files, out)
    name, submit = SCHEDULERS[scheduler]
    typer.echo(f"jobs: {out / name} ({len(files) - 2} runs); start them with: {submit} {out / name}")


@app.command()
def status(path: Annotated[Path, typer.Argument(help="A run directory or a folder of runs.")] = RUNS) -> None:
    """Show where every run stands, from its facts."""
    from thesis_surrogates.core.facts import load_runs

    table = load_runs(path)
    best = [str(column) for column in table if str(column).startswith("best_")]
    _print_table(
        table.to_dict("records"),
        ["system", "name", "seed", "status", "attempt", "epochs", *best, "training_seconds", "problem"],
    )


@app.command()
def compare(
    target: Annotated[str, typer.Argument(help="A folder of runs or a suite.")] = str(RUNS), out: Out = RUNS
) -> None:
    """Compare runs: what differs in their configurations, and how they did beside the baselines."""
    from thesis_surrogates.core.config import config_diff
    from thesis_surrogates.core.facts import read_run
    from thesis_surrogates.core.tables import comparison_table
    from thesis_surrogates.running.registry import get_system
    from thesis_surrogates.running.reports import by_system, runs_of

    for name, run_dirs in by_system(runs_of(target, out)).items():
        system, facts = get_system(name), [read_run(path) for path in run_dirs]
        typer.echo(f"\n{system.title}\n")
        keys = {
            key: values
            for key, values in config_diff([run.config for run in facts]).items()
            if key not in ("name", "question")
        }
        _print_table(
            [
                {"key": key, **dict(zip((run.config["name"] for run in facts), values, strict=True))}
                for key, values in keys.items()
            ]
        )
        typer.echo("")
        _print_table(comparison_table(run_dirs, columns=system.columns, headline=system.headline).to_dict("records"))


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Directories of trained runs.")],
    on: Annotated[
        Path | None, typer.Option("--on", help="Take the test split of this file; nothing is added to the facts.")
    ] = None,
    data_dir: DataDir = DATA,
) -> None:
    """Evaluate trained runs together, beside the baselines: costs on this machine now, or errors on another file."""
    from thesis_surrogates.core.run_files import read_config
    from thesis_surrogates.running.execution import evaluate_runs
    from thesis_surrogates.running.registry import get_system

    rows = evaluate_runs(runs, data_dir, on)
    columns = dict.fromkeys(name for run_dir in runs for name in get_system(read_config(run_dir)["system"]).columns)
    _print_table(
        [{name: row.get(name) for name in ("kind", "contender", "parameters", "cost_us", *columns)} for row in rows]
    )


@app.command()
def report(
    targets: Annotated[list[str], typer.Argument(help="Folders of runs or suites.")],
    out: Out = RUNS,
    reports: Annotated[Path, typer.Option("--reports", help="Folder of the reports.")] = Path("outputs/reports"),
) -> None:
    """Write tables, figures and a page per system, from facts alone."""
    from thesis_surrogates.running.reports import make_reports

    for target in targets:
        for folder in make_reports(target, out, reports):
            typer.echo(f"report: {folder}")


@app.command()
def views(
    targets: Annotated[list[str], typer.Argument(help="Run directories, folders of runs or suites.")],
    out: Out = RUNS,
) -> None:
    """Write again the files of runs that their system derives from facts (history.json and its like)."""
    from thesis_surrogates.running.execution import write_views
    from thesis_surrogates.running.reports import runs_of

    for target in targets:
        for run_dir in runs_of(target, out):
            typer.echo(f"views: {run_dir} ({', '.join(path.name for path in write_views(run_dir)) or 'none'})")


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    form: Annotated[str, typer.Option("--format", help="onnx, torchscript or header (C++).")] = "onnx",
    path: Annotated[
        Path | None, typer.Option("--path", help="Where to write; in the run directory by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit-bytes", help="header only: refuse more bytes of constants, e.g. 65536.")
    ] = None,
) -> None:
    """Export a trained surrogate in physical units, checked against PyTorch."""
    from thesis_surrogates.core.config import nearest
    from thesis_surrogates.core.errors import ConfigError
    from thesis_surrogates.core.export.cpp_header import export_header
    from thesis_surrogates.core.export.onnx import export_onnx, export_torchscript
    from thesis_surrogates.running.execution import load_surrogate

    writers: dict[str, tuple[Any, str]] = {
        "onnx": (export_onnx, "model.onnx"),
        "torchscript": (export_torchscript, "model.ts"),
        "header": (export_header, "model.hpp"),
    }
    if form not in writers:
        raise ConfigError(f"--format {form}: unknown; {nearest(form, list(writers))}")
    if limit is not None and form != "header":
        raise ConfigError(f"--limit-bytes counts the constants of a header; with --format {form} it has no meaning")
    write, name = writers[form]
    target = path or run_dir / "export" / name
    report = write(load_surrogate(run_dir).deployable, target, **({"limit_bytes": limit} if form == "header" else {}))
    note = f", {report.constant_bytes:,} B of constants" if form == "header" else ""
    checked = "checked against PyTorch" if getattr(report, "compiled", True) else "not compiled: no C++ compiler here"
    typer.echo(f"{form}: {target} ({checked}{note})")


@app.command()
def publish(
    target: Annotated[str, typer.Argument(help="A folder of runs or a suite.")],
    out: Out = RUNS,
    published: Annotated[Path, typer.Option("--published", help="Folder of the published facts.")] = Path(
        "outputs/published"
    ),
) -> None:
    """Add the small facts of ended runs, without host names and paths, to the published ones.

    They go to SYSTEM/SUITE/runs.jsonl, baselines.jsonl and scalars.csv; a run of the same configuration is replaced, others stay.
    A curve keeps at most 40 points; a suite of more than 100 runs is published without curves.
    """
    from thesis_surrogates.core.publishing import publish as add
    from thesis_surrogates.running.reports import runs_of
    from thesis_surrogates.running.results import suite_of

    for name in add(runs_of(target, out), published, suite_of):
        typer.echo(f"published: {name}")


@app.command()
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
    options = [] if out is None else ["--out", str(out)]
    raise typer.Exit(subprocess.run([sys.executable, str(FOLDER / "build.py"), *options]).returncode)


@app.command()
def doctor() -> None:
    """Tell what this machine has and what is missing."""
    from thesis_surrogates.running.doctor import examine

    checks = examine()
    for check in checks:
        typer.echo(
            f"{'ok     ' if check.good else 'missing' if check.needed else 'without'}  {check.name}: {check.found}"
        )
    raise typer.Exit(int(any(check.needed and not check.good for check in checks)))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: an error that the user can repair becomes one line on standard error and exit code 2."""
    try:
        app(args=arguments)
    except SurrogatesError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None


def train_main() -> None:
    """`thesis-train`: the same as `surrogates run`."""
    main(["run", *(sys.argv[1:] or ["--help"])])


def report_main() -> None:
    """`thesis-report`: the same as `surrogates report`."""
    main(["report", *(sys.argv[1:] or ["--help"])])
