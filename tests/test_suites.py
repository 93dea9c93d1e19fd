"""Suites with runs that cannot be: refused, or left out in sight."""

from __future__ import annotations

import pytest
import yaml

from thesis_surrogates import cli
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.running import registry
from thesis_surrogates.running.registry import load_run, load_suite, report_skipped_runs

GRID = {
    "defaults": {"system": "tracks", "model": {"name": "mlp"}, "data": {"n_tracks": 500}},
    "grid": {"train.epochs": [1, 0], "train.batch_size": [32, 64, -1], "seed": [0, 1]},
}


def written(folder, **more):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**GRID, **more}, sort_keys=False))
    return path


def test_points_that_cannot_be_refuse_a_suite_unless_it_says_otherwise(tmp_path):
    for more in ({}, {"invalid": "refuse"}):
        path = written(tmp_path, **more)
        with pytest.raises(ConfigError, match="train.batch_size: .*\n.*train.epochs: "):
            load_suite(path)
        assert report_skipped_runs(path) == []
    with pytest.raises(ConfigError, match="invalid"):
        load_suite(written(tmp_path, invalid="ignore"))


def test_points_that_cannot_be_are_left_out_with_one_line_a_reason_and_their_number(tmp_path):
    path = written(tmp_path, invalid="skip")
    runs = load_suite(path)
    assert [(run.train.epochs, run.train.batch_size, run.seed) for run in runs] == [
        (1, size, seed) for size in (32, 64) for seed in (0, 1)
    ]
    epochs, size = sorted(report_skipped_runs(path), key=lambda line: "batch_size: " in line)
    assert ": 6 skipped (run 'epochs=0,batch_size=32,seed=0' and 5 more): train.epochs: " in epochs
    assert ": 4 skipped (" in size and "): train.batch_size: " in size
    assert [run.seed for run in load_suite(path, {"train": {"epochs": 2}}, seeds=[5])] == [5] * 8


def test_what_is_left_out_cannot_be_asked_for_and_nothing_is_left_of_a_suite_without_runs(tmp_path):
    path = written(tmp_path, invalid="skip")
    with pytest.raises(ConfigError, match="train.epochs"):
        load_run(f"{path}:epochs=0,batch_size=32,seed=0")
    with pytest.raises(ConfigError, match="train.epoch: unknown key"):  # a mistake in every run is no point of a grid
        load_suite(path, {"train": {"epoch": 3}})


def test_the_command_line_reports_what_it_leaves_out(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, invalid="skip")
    monkeypatch.setattr(cli, "_sweep", lambda configs, *_, **__: 0)
    with pytest.raises(SystemExit):
        cli.main(["sweep", str(path), "--out", str(tmp_path / "runs"), "--no-measure"])
    assert capsys.readouterr().err.count(" skipped (") == 2
    monkeypatch.setattr(registry, "list_suites", lambda system=None: {"tracks/grid": path})
    with pytest.raises(SystemExit):
        cli.main(["list", "tracks"])
    answer = capsys.readouterr()
    assert "tracks/grid" in answer.out and answer.err.count("tracks/grid: ") == 2
