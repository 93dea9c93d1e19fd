"""Seeds draw data as well as weights, without changing one identity, and nothing trains on what judges."""

import pytest
import yaml
from made_up import made_up_run

from thesis_surrogates.core.config import config_hash, recipe_hash
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.facts import columns_of, data_seeds, swept_keys
from thesis_surrogates.core.report import measured_on
from thesis_surrogates.core.suites import JUDGE_SEEDS, SET_SEED
from thesis_surrogates.core.sweep_figures import compare
from thesis_surrogates.core.sweep_tables import importance
from thesis_surrogates.core.tables import comparison_table
from thesis_surrogates.running.registry import SYSTEMS, list_suites, load_run, load_suite, resolve

TOY = {"defaults": {"system": "tracks"}, "runs": {"small": {"model": {"name": "mlp", "hidden": [4]}}}}


def written(tmp_path, **sections):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({**TOY, **sections}))
    return path


def seeds_of(configs):
    return [(config.name, config.seed, config.data.seed) for config in configs]


@pytest.mark.parametrize(
    ("seeds", "asked", "expected"),
    [
        (None, (), [("small", 0, 0)]),
        (None, (1, 2), [("small", 1, 0), ("small", 2, 0)]),
        ({"model": [0, 1]}, (), [("small-seed=0", 0, 0), ("small-seed=1", 1, 1)]),
        ({"model": [0, 1], "data": 3}, (), [("small-seed=0", 0, 3), ("small-seed=1", 1, 3)]),
        ({"model": 7}, (), [("small", 7, 7)]),
        ({"data": [0, 5]}, (), [("small-data_seed=0", 0, 0), ("small-data_seed=5", 0, 5)]),
        ({"model": [0, 1]}, (4, 5), [("small", 4, 4), ("small", 5, 5)]),
        ({"data": 0}, (4,), [("small", 4, 0)]),
    ],
)
def test_a_suite_writes_plain_seeds_into_its_runs(tmp_path, seeds, asked, expected):
    path = written(tmp_path, **({} if seeds is None else {"seeds": seeds}))
    configs = load_suite(path, seeds=asked)
    assert seeds_of(configs) == expected
    for config in configs:  # the same run as one that was written by hand
        data = {"seed": config.data.seed}
        plain = {"system": "tracks", "model": {"name": "mlp", "hidden": [4]}, "seed": config.seed, "data": data}
        assert config_hash(resolve(plain)) == config_hash(config)
    name = configs[0].name
    if not asked:
        assert load_run(f"{path}:{name}") == configs[0]


def test_the_repeats_of_all_runs_stand_seed_by_seed(tmp_path):
    path = written(tmp_path, grid={"train.epochs": [1, 2]}, seeds={"model": [0, 1]})
    assert [(config.train.epochs, config.seed) for config in load_suite(path)] == [(1, 0), (2, 0), (1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"seeds": {"data": "smae"}}, "seeds.data.*write a number"),
        ({"seeds": {"model": [0, 0]}}, "seeds.model.*different numbers"),
        ({"seeds": {"model": [-1]}}, "seeds.model"),
        ({"seeds": {"modle": [0]}}, "did you mean 'model'"),
        ({"seeds": {"model": [0, 1]}, "grid": {"seed": [0, 1]}}, "seed stands there and follows from seeds"),
        ({"seeds": {}, "grid": {"data.seed": [0]}}, "data.seed stands there and follows from seeds"),
        ({"seeds": {"data": 0}, "grid": {"data": "oops"}}, "data: expected a mapping"),
        ({"seeds": {"data": JUDGE_SEEDS[2]}}, f"data.seed: {JUDGE_SEEDS[2]} draws data that only judge"),
        ({"grid": {"data.seed": [SET_SEED]}}, "data that only judge"),
    ],
)
def test_seeds_that_cannot_be_meant_are_refused(tmp_path, sections, words):
    with pytest.raises(ConfigError, match=words):
        load_suite(written(tmp_path, **sections))


def test_no_run_trains_on_data_that_judge():
    assert len(set(JUDGE_SEEDS)) == 5 and min(*JUDGE_SEEDS, SET_SEED) > 10**6
    used = {config.data.seed for system in SYSTEMS for name in list_suites(system) for config in load_suite(name)}
    assert used.isdisjoint({*JUDGE_SEEDS, SET_SEED})
    run = {"system": "orbits", "model": "neural_ode", "data": {"seed": JUDGE_SEEDS[0]}}
    with pytest.raises(ConfigError, match="only judge"):
        resolve(run)


def test_data_that_differ_in_their_seed_alone_share_a_table(tmp_path):
    runs = [made_up_run(tmp_path, f"mlp-seed={k}", k, k, 1.0 + k, f"{k}" * 12, baseline=4.0 + k) for k in range(3)]
    assert len({recipe_hash(run.config) for run in runs}) == 1 and len({run.config_hash for run in runs}) == 3
    table = comparison_table(runs, ["error_mm"], "error_mm")
    assert list(table.contender) == ["RK4", "mlp"] and set(table.data) == {"0" * 8}
    wanted = ["seeds", "error_mm", "error_mm_low", "error_mm_high"]
    assert table[wanted].to_numpy().tolist() == [[3, 5.0, 4.0, 6.0], [3, 2.0, 1.0, 3.0]]
    assert "Data were drawn with 3 seeds" in measured_on(runs)
    assert swept_keys(run.config for run in runs) == [] and columns_of(run.config for run in runs) == ["data.seed"]
    assert importance(runs, "error_mm").table.empty
    drawn = compare(runs, "data.seed", "error_mm", kind="box").table
    assert list(drawn.columns) == ["data.seed", "seed", "error_mm"]
    assert "3 runs that differ in seed, data.seed" in compare(runs, "train.epochs", "error_mm").caption


def test_what_differs_in_more_than_the_seed_stays_apart(tmp_path):
    runs = [made_up_run(tmp_path, "a", 0, 0, 1.0, "a" * 12, n=1), made_up_run(tmp_path, "b", 0, 0, 1.0, "b" * 12, n=2)]
    assert list(comparison_table(runs, ["error_mm"], "error_mm").data) == ["a" * 8] * 2 + ["b" * 8] * 2
    # one seed with two datasets: made by another version, so that the seeds say nothing about what is alike
    odd = [made_up_run(tmp_path, "c", k, k // 2, 1.0, name * 12, n=3) for k, name in enumerate("cde")]
    assert len(set(comparison_table(odd, ["error_mm"], "error_mm").data)) == 3
    assert [len(found) for found in data_seeds(odd).values()] == [2]


def test_one_data_set_is_called_so(tmp_path):
    runs = [made_up_run(tmp_path, f"mlp-seed={k}", k, 0, 1.0 + k, "a" * 12) for k in range(3)]
    assert measured_on(runs).endswith(
        "One data set: all seeds are those of models, so a spread says nothing about other data."
    )
    assert "data set" not in measured_on(runs[:1])
    table = comparison_table(runs, ["error_mm"], "error_mm")
    assert table.error_mm_low.isna().tolist() == [True, False], "a baseline on one dataset has no spread"


def test_a_seed_of_data_in_another_place_is_still_a_name(tmp_path):
    run = made_up_run(tmp_path, "small-seed=1-data_seed=5", 1, 5, 1.0, "a" * 12)
    (row,) = comparison_table([run], ["error_mm"], "error_mm").query("kind == 'surrogate'").contender
    assert row == "small"
