"""How far a trained track network can be trusted: Jacobian, determinant, physics checks, validity flag and fall-back.

    python benchmarks/tracks_trust.py RUN_DIR [RUN_DIR ...] [--tracks 20000] [--tolerances 0.01 0.03 0.1 0.3 1]
        [--no-facts]

For each run: fresh tracks of its own law with another seed, a validity fitted on the validation split and written
beside the checkpoint (validity.json), and one folder under outputs/benchmarks/tracks/trust with tables, figures and
trust.json. The tables are also added to the facts of the run as the moment `trust`, which `surrogates publish`
copies. A dataset that is not there is made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from fresh_tracks import draw_fresh_tracks

from thesis_surrogates.core.facts import reason_not_measurable
from thesis_surrogates.core.plots import save_figure
from thesis_surrogates.core.recorder import append_event
from thesis_surrogates.core.trust_tables import trust_facts
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import trained_model
from thesis_surrogates.tracks.field import Field, make_field
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.trust.jacobian import jacobian_against_momentum, jacobian_errors, jacobian_table
from thesis_surrogates.tracks.trust.physics_checks import checks_figure, checks_table
from thesis_surrogates.tracks.trust.validity import fallback_table, fit_validity, save_validity


def stepper(field: Field) -> Any:
    """Runge-Kutta as a map of inputs [N, 7]."""

    def predict(inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.double().numpy()
        return torch.from_numpy(propagate(rows[:, :4], rows[:, 4], rows[:, 5], rows[:, 5] + rows[:, 6], field))

    return predict


def trust(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All tables of one run."""
    system, config, model = trained_model(run)
    model = model.eval().requires_grad_(False)
    data = system.load_data(config.data, ensure_dataset(system, config.data, options.data))
    field = make_field(config.data.field, config.data.polarity, config.data.field_map)  # type: ignore[attr-defined]
    inputs, target = draw_fresh_tracks(config.data, options.tracks, field)  # type: ignore[arg-type]
    fresh, place = {"inputs": inputs, "target": torch.from_numpy(target)}, options.out / run.name
    found = jacobian_errors(model, fresh["inputs"][: options.jacobians], field)
    checks = checks_table(
        {"RK4": stepper(field), config.name: model},
        fresh["inputs"][: options.jacobians],
        field,
        both_directions=bool((fresh["inputs"][:, 6] < 0).any()),
    )
    validity = fit_validity(model, data.splits["train"]["inputs"], dict(data.splits["validation"]))
    save_validity(validity, run / "checkpoints" / "validity.json")
    fallback = fallback_table(model, validity, field, fresh, tuple(options.tolerances))
    save_figure(*in_order(jacobian_against_momentum({config.name: found}), place / "jacobian"))
    save_figure(*in_order(checks_figure(checks), place / "physics_checks"))
    fallback.to_csv(place / "fallback.csv", index=False)
    tables = {"jacobian": jacobian_table(found), "checks": checks, "fallback": fallback}
    if not options.no_facts:
        about = {
            "tracks": len(fresh["inputs"]),
            "jacobians": len(found.momentum_gev),
            "validation_tracks": len(data.splits["validation"]["inputs"]),
        }
        append_event(run, "trust", trust_facts(tables, about))
    return {"run": run.name, "name": config.name, **{name: table.to_dict("records") for name, table in tables.items()}}


def in_order(drawn: tuple[Any, Any], stem: Path) -> tuple[Any, Path, Any]:
    """The order in which a figure is saved."""
    return drawn[0], stem, drawn[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--tracks", type=int, default=20_000, help="fresh tracks for the fall-back")
    parser.add_argument("--jacobians", type=int, default=5000, help="of these, how many are differentiated")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3, 1.0], help="mm")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/tracks/trust"))
    parser.add_argument("--no-facts", action="store_true", help="add nothing to the facts of the runs")
    options = parser.parse_args()
    for run in options.runs:
        if (why := reason_not_measurable(run, "tracks")) is not None:
            parser.exit(2, f"{why}\n")
    torch.set_num_threads(1)
    results = []
    for run in options.runs:
        results.append(trust(run, options))
        last = results[-1]
        medians = {row["quantity"]: row["p50"] for row in last["jacobian"] if row["band"] == "all"}
        print(
            f"{run.name}: J {medians['scaled']:.2g} (unscaled {medians['unscaled']:.2g}), "
            f"det {medians['liouville']:.2g}; flagged "
            + ", ".join(f"{row['flagged']:.1%} at {row['tolerance_mm']:g} mm" for row in last["fallback"]),
            flush=True,
        )
        (options.out / "trust.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
