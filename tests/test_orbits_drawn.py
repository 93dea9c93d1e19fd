"""Guards of the pictures of orbits and of what facts, tables and checkpoints say of a field: what it assumes and is."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_surrogates.core.checkpoints import load_checkpoint, save_checkpoint
from thesis_surrogates.core.errors import DataError, FactsError
from thesis_surrogates.core.facts import Run, read_run
from thesis_surrogates.core.plots import png_of
from thesis_surrogates.core.recorder import open_run
from thesis_surrogates.core.tables import build_table, format_table
from thesis_surrogates.orbits.features import FEATURES, warn_of_law
from thesis_surrogates.orbits.heads import HEADS
from thesis_surrogates.orbits.models import NeuralField, NeuralODEConfig
from thesis_surrogates.orbits.study.drawn.book import DRAWINGS, draw, redraw, tables_of, tables_of_study
from thesis_surrogates.orbits.study.drawn.explorer import VIEWS, orbit_explorer
from thesis_surrogates.orbits.study.drawn.grids import grid_orbits
from thesis_surrogates.orbits.study.drawn.phases import phase_fields
from thesis_surrogates.orbits.study.drawn.traces import periapsis_hours, trace_table
from thesis_surrogates.orbits.system import SYSTEM
from thesis_surrogates.orbits.trust.jacobian import exact_jacobians, jacobian_samples, score_jacobian, state_jacobians
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import Extras, load_surrogate, run_directory, train_and_evaluate
from thesis_surrogates.running.registry import resolve

DATA = {"train_set": "complex_TBP_planar_6_train", "test_set": "complex_TBP_planar_3_test", "points": 60}
TRAIN = {"steps_strategy": [20, 15], "segment_length_strategy": [4, 10], "validate_every": 10, "batch_size": 32}


def small_run(folder: Path, name: str, budget: float | None = None, **parts: Mapping[str, Any]) -> Run:
    """A run without figures and costs, which take longer than its training."""
    config = resolve(
        {
            "system": "orbits",
            "name": name,
            "data": DATA,
            "train": TRAIN | dict(parts.get("train", {})),
            "model": {"name": "neural_ode", "width": 8, "depth": 1, **parts.get("model", {})},
        }
    )
    place, few = run_directory(config, folder / "runs"), Extras(figures=False, costs=False)
    dataset = ensure_dataset(SYSTEM, config.data, folder / "data")
    train_and_evaluate(
        config, place, dataset, torch.device("cpu"), budget_seconds=budget, data_dir=folder / "data", extras=few
    )
    return read_run(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Run:
    return small_run(folder, "plain")


@pytest.fixture(scope="module")
def told(folder: Path) -> Run:
    with pytest.warns(UserWarning, match="log a, energy are computed with the law"):
        return small_run(folder, "told", model={"features": "sph_4D_rinv_vel_loga_energy"})


@pytest.fixture(scope="module")
def data(folder: Path) -> Any:
    config = SYSTEM.data_config(**DATA)
    SYSTEM.make_data(config, folder / "orbits.h5", 1)
    return SYSTEM.load_data(config, folder / "orbits.h5")


@pytest.fixture(scope="module")
def tables(plain: Run, data: Any) -> dict[str, pd.DataFrame]:
    return dict(tables_of(plain, data))


def test_facts_of_a_phase(plain: Run) -> None:
    found = [event["about"] for event in plain.events if event["moment"] == "phase_start"]
    train = plain.last_event("model")["data"]["orbits"]["train"]
    assert [about["segment_length"] for about in found] == [4, 10]
    assert [about["windows"] for about in found] == [15 * train, 6 * train]
    assert [about["batch"] for about in found] == [32, min(32, 6 * train)]
    assert all(about["training_orbits"] == train and about["segments"] == about["windows"] for about in found)
    assert found[1]["segment_ratio_percent"] == pytest.approx(100 * 10 / 60, abs=1e-3)


def test_what_a_field_assumes_stands_in_facts_and_tables(plain: Run, told: Run) -> None:
    abouts = [one.last_event("start")["about"] for one in (plain, told)]
    assert [about["assumes"] for about in abouts] == ["generic", "gravity"]
    assert "warning" not in abouts[0] and "log a, energy" in abouts[1]["warning"]
    columns, headline = SYSTEM.terms.columns, SYSTEM.terms.headline
    table = build_table([plain, told], [], columns, headline)
    kinds = table.set_index("contender").assumes.to_dict()
    assert (kinds["plain"], kinds["told"], kinds["no force"], kinds["Kepler"]) == (
        "generic",
        "gravity",
        "no force",
        "gravity",
    )
    assert "assumes" in format_table(table, columns, headline, str)[0]
    assert "computed with the law" in table.set_index("contender").note["told"]


def test_only_elements_of_an_orbit_give_the_law_away() -> None:
    warned = {name for name, layer in FEATURES.items() if warn_of_law(layer)}
    assert warned == {name for name, layer in FEATURES.items() if layer.assumes == "gravity"} and len(warned) == 3


@pytest.mark.parametrize("key, value", [("head", "mlp_4D_signed"), ("activation", "tanh")])
def test_a_checkpoint_of_another_field_is_refused(plain: Run, tmp_path: Path, key: str, value: str) -> None:
    shutil.copytree(plain.path, tmp_path / "run")
    path = tmp_path / "run/checkpoints/best.pt"
    values = load_checkpoint(path)
    save_checkpoint(path, {**values, "about": {**values["about"], key: value}})
    with pytest.raises(DataError, match=f"{key} '{value}', this run has .*put back") as caught:
        load_surrogate(tmp_path / "run")
    assert "\n" not in str(caught.value)
    save_checkpoint(path, {name: part for name, part in values.items() if name != "about"})
    load_surrogate(tmp_path / "run")  # files of earlier versions say nothing


def test_a_segment_that_nothing_holds_leaves_nothing_behind(folder: Path) -> None:
    with pytest.raises(DataError, match="the longest run of real samples is 60"):
        small_run(folder, "long", train={"segment_length_strategy": [61]})
    assert not list((folder / "runs").rglob("long-*"))


def test_a_run_of_before_goes_on(folder: Path) -> None:
    other = {"validate_every": 5}
    paused = small_run(folder, "older", budget=0.0, train=other)
    last = paused.path / "checkpoints/last.pt"
    values = load_checkpoint(last)
    assert paused.status == "paused" and "best of the phase" in values["loop"]
    save_checkpoint(last, {**values, "loop": values["loop"].replace(" and the best of the phase", "")})
    assert small_run(folder, "older", train=other).status == "done"


FROM_TEXT = ("losses", "orbit_boxes", "paths", "traces")  # whose columns are of several kinds


def test_every_picture_of_a_run_is_drawn_from_its_table(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    assert set(tables) - {"ranking"} < set(DRAWINGS) and tables["ranking"].error_percent.is_monotonic_decreasing
    for name in set(tables) - {"ranking"}:
        tables[name].to_csv(tmp_path / f"{name}.csv", index=False)
        again = DRAWINGS[name](pd.read_csv(tmp_path / f"{name}.csv"), "screen")
        assert again.axes, name
        if name in FROM_TEXT:
            assert png_of(again) == png_of(DRAWINGS[name](tables[name], "screen")), name


def test_looks(tables: dict[str, pd.DataFrame]) -> None:
    looks = [png_of(DRAWINGS["losses"](tables["losses"], look)) for look in ("screen", "paper", "dark")]
    assert len(set(looks)) == 3


def test_pictures_of_a_study(plain: Run, told: Run, tmp_path: Path) -> None:
    found = tables_of_study([plain, told])
    assert found["study"].assumes.tolist() == ["generic", "gravity"]
    assert found["violins"].groupby("seed").share.sum().iloc[0] == pytest.approx(1.0, abs=1e-3)
    for name in ("violins", "laws_by_head", "parallel"):
        found[name].to_csv(tmp_path / f"{name}.csv", index=False)
    written = [Path(line).name for line in redraw(tmp_path, style="paper")]
    assert set(written) == {"violins.png", "laws_by_head.png", "parallel.png"}
    with pytest.raises(FactsError, match="no table to draw"):
        list(redraw(tmp_path / "nothing"))


def test_the_command_writes_a_folder(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"ranking": pd.DataFrame({"orbit": [1]}), "paths": pd.DataFrame()}
    monkeypatch.setattr("thesis_surrogates.orbits.study.drawn.book.tables_of", lambda run, data: few.items())
    monkeypatch.setattr("thesis_surrogates.orbits.study.drawn.book.data_of", lambda run: None)
    assert [Path(line).name for line in draw(plain, out=tmp_path / "out")] == ["ranking.csv"]
    assert SYSTEM.commands["draw"] is draw


def test_phases_are_those_of_the_training(plain: Run, folder: Path, tmp_path: Path) -> None:
    fields = phase_fields(plain)
    assert list(fields) == ["part 1, 4 samples", "part 2, 10 samples"]
    shutil.copytree(plain.path, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").glob("best_phase_*.pt"):
        path.unlink()
    with pytest.raises(DataError, match="no best_phase_K.pt for its 2 phases"):
        phase_fields(type(plain)(**{**vars_of(plain), "path": tmp_path / "run"}))


def vars_of(record: Run) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_the_explorer_reacts_without_a_browser(plain: Run, told: Run, data: Any) -> None:
    explorer = orbit_explorer([plain, told], data)
    picture, handles = explorer.children[0], {handle.description: handle for handle in explorer.children[1].children}
    assert list(handles) == ["run", "phase", "orbit", "view"] and handles["orbit"].max == 2
    seen = [picture.value]
    for name, value in [("orbit", 2), ("phase", 1), *(("view", view) for view in list(VIEWS)[1:])]:
        handles[name].value = value
        seen.append(picture.value)
    handles["run"].value = handles["run"].options[1]
    seen.append(picture.value)
    assert len({*seen}) == len(seen)
    with pytest.raises(DataError, match="no runs"):
        orbit_explorer([], data)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_jacobians_are_those_of_differences(dimensions: int) -> None:
    torch.manual_seed(1)
    field = NeuralField(NeuralODEConfig(width=8, depth=2), dimensions).double()
    states = torch.randn(5, 2 * dimensions, dtype=torch.float64) + 1.5
    found, step = state_jacobians(field.reduced, states, rows=2), 1e-6
    for column in range(2 * dimensions):
        shift = torch.zeros_like(states)
        shift[:, column] = step
        with torch.no_grad():
            slope = (field.reduced(states + shift) - field.reduced(states - shift)) / (2 * step)
        assert torch.allclose(found[:, :, column], slope, atol=1e-7)


def test_the_jacobian_of_gravity_has_its_known_rates() -> None:
    states = torch.tensor([[2.0, 0, 0, 0, 0.7, 0], [1.0, 2, 0.5, 0.1, 0.2, 0.3]], dtype=torch.float64)
    rates = np.linalg.eigvals(exact_jacobians(states).numpy()) * states[:, :3].norm(dim=1).numpy()[:, None] ** 1.5
    for row in rates:
        assert sorted(row.real.round(6)) == pytest.approx([-(2**0.5), 0, 0, 0, 0, 2**0.5], abs=1e-5)
        assert sorted(row.imag.round(6)) == pytest.approx([-1, -1, 0, 0, 1, 1], abs=1e-5)


def test_a_field_that_is_gravity_scores_as_gravity(data: Any) -> None:
    class Gravity(NeuralField):
        def reduced(self, state: torch.Tensor) -> torch.Tensor:
            return torch.cat([state[..., 2:], -state[..., :2] / state[..., :2].norm(dim=-1, keepdim=True) ** 3], -1)

    numbers = score_jacobian(jacobian_samples(Gravity(NeuralODEConfig(), 2).double(), data.splits["test"]))
    assert numbers["jacobian_error_median_percent"] < 1e-9 and numbers["divergence_median"] < 1e-9
    assert numbers["fastest_rate"] == pytest.approx(2**0.5) and numbers["fastest_rate_spread"] == pytest.approx(1)


def test_periapsis_of_a_trace(data: Any) -> None:
    field = NeuralField(NeuralODEConfig(width=4, depth=1, head="mlp_simple"), 2)
    row = int(data.splits["test"]["eccentricity"].argmax())
    table = trace_table(field, data.splits["test"], row, 1.0)
    radius = table[table.panel == "radius"]
    low = periapsis_hours(radius.hours.to_numpy(), radius.value.to_numpy())
    exact = radius.hours.iloc[int(radius.value.argmin())]
    assert len(low) <= 1 and all(abs(hour - exact) < radius.hours.diff().max() for hour in low)
    assert table[table.panel == "outputs"].label.nunique() == HEADS["mlp_simple"].outputs(2)


def test_a_grid_has_the_units_of_its_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        orbits = grid_orbits(SYSTEM.data_config(), size=4, points=12)
    assert (
        float(orbits["state"].abs().max()) < 20
        and (orbits["semi_major_axis"] * (1 - orbits["eccentricity"])).min() > 0.999
    )


def test_a_run_of_another_system_is_named_in_one_line(tmp_path: Path) -> None:
    with open_run(tmp_path / "cells", {"system": "flavor", "data": {"cells": 1000}}, provenance={}):
        pass
    with pytest.raises(FactsError, match="cells: a run of flavor; name a run of orbits$"):
        list(draw(read_run(tmp_path / "cells")))
