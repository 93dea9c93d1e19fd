"""Named sets and judging sets: every contender on each, beside the test split and never mixed with it."""

import numpy as np
import pytest
import torch
from made_up import made_up_run

from thesis_surrogates.core.config import as_mapping, config_hash
from thesis_surrogates.core.data import items_in
from thesis_surrogates.core.errors import ConfigError, DataError
from thesis_surrogates.core.facts import read_run
from thesis_surrogates.core.known_scores import tensors_digest
from thesis_surrogates.core.publishing import publish, read_published
from thesis_surrogates.core.recorder import append_event
from thesis_surrogates.core.report import write_report
from thesis_surrogates.core.set_tables import judged_table, sets_table
from thesis_surrogates.core.suites import JUDGE_SEEDS, SET_SEED
from thesis_surrogates.core.sweep_figures import compare
from thesis_surrogates.core.sweep_tables import importance, sweep_table
from thesis_surrogates.core.tables import comparison_table
from thesis_surrogates.running.datasets import ensure_dataset, named_data, read_dataset, set_config
from thesis_surrogates.running.execution import run
from thesis_surrogates.running.judging import judging_sets
from thesis_surrogates.running.registry import get_system, load_suite, resolve

TINY = {
    "system": "tracks",
    "model": {"name": "residual", "hidden": [4]},
    "data": {"n_tracks": 300},
    "train": {"epochs": 2, "steps_per_epoch": 2, "batch_size": 16},
}


def own_data(config, data_dir):
    system = get_system(config.system)
    return system, read_dataset(system, config.data, ensure_dataset(system, config.data, data_dir))


def rows_of(split):
    """Digest of each row of a split, all its tensors together."""
    return {
        tensors_digest({name: value[k : k + 1] for name, value in split.items() if name not in ("group", "length_km")})
        for k in range(items_in(split))
    }


def test_judging_sets_are_fresh_and_as_large_as_the_test_split(system_name, data_dir):
    config = load_suite(f"{system_name}/smoke")[0]
    system, own = own_data(config, data_dir)
    size, seen = items_in(own.splits["test"]), rows_of(own.splits["train"]) | rows_of(own.splits["test"])
    for name, data in judging_sets(system, config, own, data_dir, JUDGE_SEEDS[:2]):
        test = data.splits["test"]
        assert size <= items_in(test) <= size + 1 or size < 20, (name, size, items_in(test))
        assert rows_of(test).isdisjoint(seen)
        assert data.splits["train"] is own.splits["train"], "what a baseline learns, it learns from the run's own data"
        assert set(test) == set(own.splits["test"]) and data.fingerprint != own.fingerprint
        seen |= rows_of(test)


def test_every_system_judges_on_its_training_rows_and_on_a_preset(smoke_runs, system_name, data_dir):
    before = smoke_runs(system_name)
    preset = [name for name in get_system(system_name).presets if "kinetic" not in name][-1]  # a box costs a second
    config = resolve({**before.config, "evaluate_on": ["test", "train", preset, preset]})
    assert config_hash(config) == before.config_hash, "sets are no part of the identity"
    after = run(config, before.path.parent.parent, data_dir=data_dir, progress=False)
    assert after.path == before.path and after.attempt == before.attempt and after.evaluated == before.evaluated
    names = list(dict.fromkeys(row["contender"] for row in before.evaluated))  # one of each implementation
    for name in ("train", preset):
        found = [row for row in after.evaluated_on if row["set"] == name]
        assert sorted(row["contender"] for row in found) == sorted(names), "every contender is judged on each set"
        assert not any("cost_us" in row for row in found)
        headline = get_system(system_name).terms.headline
        assert all(np.isfinite(row[headline]) for row in found)
    again = run(config, before.path.parent.parent, data_dir=data_dir, progress=False)
    assert len(again.events) == len(after.events), "what is known is not judged again"


def test_a_preset_is_drawn_anew_and_keeps_what_presets_do_not_name(data_dir):
    config = resolve({**TINY, "data": {"n_tracks": 300, "field": "dipole", "z_start": 3000.0, "p_low": 20.0}})
    system, own = own_data(config, data_dir)
    found = set_config(system, config.data, "leg", items_in(own.splits["test"]))
    assert (found.seed, found.field, found.z_start, found.p_low) == (SET_SEED, "dipole", 2665.0, 3.0)
    train = named_data(system, config.data, "train", own, data_dir).splits["test"]
    assert items_in(train) == items_in(own.splits["test"]) == 30
    assert rows_of(train) <= rows_of(own.splits["train"])


def test_a_file_is_judged_by_its_test_split(tmp_path, data_dir):
    other = resolve({**TINY, "data": {"n_tracks": 200, "seed": 3}})
    _, data = own_data(other, data_dir)
    path = ensure_dataset(get_system("tracks"), other.data, data_dir)
    config = resolve({**TINY, "evaluate_on": [str(path)]})
    system, own = own_data(config, data_dir)
    found = named_data(system, config.data, str(path), own, data_dir)
    assert (
        torch.equal(found.splits["test"]["inputs"], own_test(data, config, path))
        and found.splits["train"] is own.splits["train"]
    )


def own_test(data, config, path):
    """The test split of a file as a run with this configuration reads it: its seed splits it."""
    there = config.data.model_copy(update={"path": str(path)})
    return get_system("tracks").load_data(there, path).splits["test"]["inputs"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lwo"], "evaluate_on: 'lwo' is no split, no preset and no data file; did you mean 'low'"),
        (["trian"], "did you mean 'train'"),
        ("low", "evaluate_on"),
    ],
)
def test_a_wrong_set_is_refused_with_the_nearest(names, words):
    with pytest.raises(ConfigError, match=words):
        resolve({**TINY, "evaluate_on": names})


@pytest.mark.parametrize("text", [None, "no dataset"])
def test_a_file_that_cannot_be_read_is_refused_before_anything_is_trained(tmp_path, data_dir, text):
    path = tmp_path / "other.h5"
    if text is not None:
        path.write_text(text)
    config = {**TINY, "evaluate_on": [str(path)]}
    with pytest.raises(DataError, match=r"other\.h5"):
        run(config, tmp_path / "runs", data_dir=data_dir, progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_run_without_named_sets_is_what_it_was():
    plain, asked = resolve(TINY), resolve({**TINY, "evaluate_on": ["train"]})
    assert "evaluate_on" not in as_mapping(plain) and as_mapping(asked)["evaluate_on"] == ["train"]
    assert config_hash(plain) == config_hash(asked)


def judged_runs(folder):
    """Two seeds of one recipe, judged on a set where all errors are a hundred times as large."""
    runs = []
    for seed in (0, 1):
        path = made_up_run(folder, f"mlp-seed={seed}", seed, 0, 1.0 + seed, "a" * 12).path
        rows = [{**row, "set": "far", "error_mm": 100 * row["error_mm"]} for row in read_run(path).evaluated]
        append_event(path, "evaluated_on", {"headline": "error_mm", "rows": rows})
        drawn = [
            {**row, "set": f"judge {k}", "error_mm": (1 + k) * row["error_mm"]}
            for k in range(3)
            for row in read_run(path).evaluated
        ]
        event = {"headline": "error_mm", "seeds": [0, 1, 2], "chosen_on": "validation"}
        append_event(path, "judged", {**event, "rows": drawn})
        runs.append(read_run(path))
    return runs


def test_no_table_mixes_a_set_with_the_test_split(tmp_path):
    runs = judged_runs(tmp_path / "sets")
    plain = [made_up_run(tmp_path / "plain", f"mlp-seed={seed}", seed, 0, 1.0 + seed, "a" * 12) for seed in (0, 1)]
    ours, theirs = (comparison_table(group, ["error_mm"], "error_mm") for group in (runs, plain))
    assert ours.to_csv() == theirs.to_csv()
    assert sweep_table(runs).error_mm.tolist() == [1.0, 2.0] and "set" not in sweep_table(runs)
    assert importance(runs, "error_mm").notes == importance(plain, "error_mm").notes
    apart = compare(runs, "set", "error_mm", kind="box").table
    assert apart.groupby("set").error_mm.max().to_dict() == {"far": 200.0, "test": 2.0}
    only = compare(runs, "seed", "error_mm", where={"set": "far"}).table
    assert only.error_mm.tolist() == [100.0, 200.0]
    assert compare(runs, "seed", "error_mm").table.error_mm.tolist() == [1.0, 2.0]


def test_tables_of_sets_have_both_spreads(tmp_path):
    runs = judged_runs(tmp_path)
    named = sets_table(runs, ["error_mm"], "error_mm")
    assert named[["set", "contender", "error_mm"]].to_numpy().tolist() == [["far", "mlp", 150.0], ["far", "RK4", 400.0]]
    mlp, rk4 = judged_table(runs, "error_mm").to_dict("records")
    assert (mlp["error_mm"], mlp["sets_low"], mlp["sets_high"]) == (2.5, 1.5, 4.5)
    assert (mlp["runs_low"], mlp["runs_high"], mlp["runs"], mlp["sets"]) == (2.0, 4.0, 2, 3)
    assert (rk4["sets_low"], rk4["sets_high"]) == (4.0, 12.0) and np.isnan(rk4["runs_low"])


def test_a_report_shows_sets_apart(tmp_path):
    runs = judged_runs(tmp_path / "runs")
    write_report(runs, tmp_path / "with", ["error_mm"], "error_mm", "Toys")
    page = (tmp_path / "with" / "table.md").read_text()
    first, _, rest = page.partition("## On other sets")
    assert "100" not in first and "far: error" in rest and "## On judging sets" in rest
    assert {"sets.csv", "judged.csv", "sets.png"} <= {file.name for file in (tmp_path / "with").iterdir()}
    plain = [made_up_run(tmp_path / "plain", "mlp", 0, 0, 1.0, "a" * 12)]
    write_report(plain, tmp_path / "without", ["error_mm"], "error_mm", "Toys", figures=False)
    assert not list((tmp_path / "without").glob("sets*")) and not (tmp_path / "without" / "judged.csv").exists()


def test_published_sets_come_back_and_baselines_stand_once(tmp_path):
    runs = judged_runs(tmp_path / "runs")
    publish([run.path for run in runs], tmp_path / "published")
    back, unread = read_published(tmp_path / "published" / "toy")
    assert not unread and [run.evaluated for run in back] == [run.evaluated for run in runs]
    for ours, theirs in zip(runs, back, strict=True):
        for rows in (lambda run: run.evaluated_on, lambda run: run.judged):
            order = [sorted(map(str, map(sorted_items, rows(run)))) for run in (ours, theirs)]
            assert order[0] == order[1]
    lines = (tmp_path / "published" / "toy" / "other" / "baselines.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5, "behind the head one on the test split, one on the named set, three on judging sets"
    publish([run.path for run in runs], tmp_path / "published")
    assert (tmp_path / "published" / "toy" / "other" / "baselines.jsonl").read_text().splitlines() == lines


def sorted_items(row):
    return sorted((key, value) for key, value in row.items() if key != "cost_us")
