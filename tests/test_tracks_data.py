"""Track data at scale: the same bytes again, nothing half-written, kills survived, files of several places, streams."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import surrogates

from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.files import file_fingerprint
from thesis_surrogates.core.hdf5 import read_hdf5, write_hdf5
from thesis_surrogates.running.datasets import choose_dataset, dataset_path
from thesis_surrogates.running.registry import get_system, read_settings
from thesis_surrogates.tracks.data import PRESETS, TracksData, generate
from thesis_surrogates.tracks.exchange.merge_split import merge, read_description, split_by_momentum
from thesis_surrogates.tracks.exchange.npz import read_npz, write_npz
from thesis_surrogates.tracks.files import load_data, split_borders, train_source
from thesis_surrogates.tracks.production import make_data

# ---- production

COARSE = {"p_low": 0.5, "label_step": 500.0}
MAKE = (
    "import sys, json, resource\nfrom pathlib import Path\nfrom thesis_surrogates.tracks.data import TracksData\n"
    "from thesis_surrogates.tracks.production import make_data\n"
    "if __name__ == '__main__':\n"
    "    make_data(TracksData(**json.loads(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]))\n"
    "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
)


def production(tmp_path, values, path, workers=1):
    script = tmp_path / "make.py"
    script.write_text(MAKE)
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(values), str(path), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_the_bytes_are_the_same(tmp_path, workers):
    values, rng = {"n_tracks": 90_000, **COARSE}, random.Random(workers)
    make_data(TracksData(**values), tmp_path / "whole.h5")
    path, folder = tmp_path / "killed.h5", tmp_path / ".killed.h5.parts"
    most = 0
    for _ in range(2):
        process = production(tmp_path, values, path, workers)
        while not list(folder.glob("0*.npz")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the others notice that they are alone
        done = len(list(folder.glob("0*.npz")))
        assert done >= most, "what was whole is kept"
        most = done
    assert not path.exists() or file_fingerprint(path) == file_fingerprint(tmp_path / "whole.h5")
    assert production(tmp_path, values, path, workers).wait(60) == 0
    assert file_fingerprint(path) == file_fingerprint(tmp_path / "whole.h5")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["killed.h5", "make.py", "whole.h5"]


def test_no_process_is_left_when_the_first_is_killed(tmp_path):
    process = production(tmp_path, {"n_tracks": 10_000_000, **COARSE}, tmp_path / "x.h5", 2)
    folder = tmp_path / ".x.h5.parts"
    while not list(folder.glob("0*.npz")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.5)
    before = len(list(folder.iterdir()))
    time.sleep(0.5)
    assert len(list(folder.iterdir())) == before


def test_memory_does_not_grow_with_the_number_of_tracks(tmp_path):
    peaks = []
    for number in (80_000, 640_000):
        process = production(tmp_path, {"n_tracks": number, "label_step": 2000.0}, tmp_path / f"{number}.npz")
        peaks.append(int(process.communicate(timeout=100)[0]))
    assert peaks[1] - peaks[0] < 30_000, f"{peaks} KiB for eight times the tracks"


def test_the_small_generator_and_the_production_agree_where_much_is_rejected(tmp_path):
    config = TracksData(n_tracks=700, p_low=0.6, p_high=1.2, label_step=200.0)
    make_data(config, tmp_path / "x.h5")
    pieces = list(generate(config))
    stored, attrs = read_hdf5(tmp_path / "x.h5")
    assert np.array_equal(stored["target"], np.concatenate([piece["target"] for piece in pieces]))
    assert attrs["n_drawn"] == sum(int(piece["drawn"]) for piece in pieces) > 1000


def test_hopeless_requests_end_in_words(tmp_path):
    with pytest.raises(DataError, match="raise p_low"):
        make_data(TracksData(n_tracks=50, largest_position=0.001, label_step=1000.0), tmp_path / "x.h5")
    with pytest.raises(DataError, match=r"or \.npz; choose"):
        make_data(TracksData(n_tracks=50), tmp_path / "x.csv")
    assert not (tmp_path / "x.h5").exists()


def test_the_seven_input_population(tmp_path):
    config = PRESETS["seven_inputs"].model_copy(update={"n_tracks": 5000})
    pieces = list(generate(config))
    x = np.concatenate([piece["inputs"] for piece in pieces])
    end = x[:, 5] + x[:, 6]
    assert 0 <= x[:, 5].min() and x[:, 5].max() <= 14_000 and end.min() > -400.01 and end.max() < 13_900.01
    assert np.abs(x[:, 6]).min() >= 25 and np.abs(x[:, 6]).max() <= 10_000.01 and 0.3 < (x[:, 6] > 0).mean() < 0.7
    assert 1 <= (1 / np.abs(x[:, 4])).min() * 1.001 and abs((x[:, 4] > 0).mean() - 0.5) < 0.03


def test_how_a_file_is_read_does_not_change_which_file_it_is(tmp_path):
    plain = dataset_path("tracks", TracksData(), tmp_path)
    assert dataset_path("tracks", TracksData(max_samples=100, stream=True), tmp_path) == plain
    assert dataset_path("tracks", TracksData(collocation=3), tmp_path) != plain


# ---- files


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    for seed in (0, 1):
        make_data(TracksData(n_tracks=1000, seed=seed, collocation=3, **COARSE), folder / f"{seed}.h5")
    make_data(TracksData(n_tracks=1000, collocation=3, **COARSE), folder / "0.npz")
    return folder


def test_the_exchange_file_has_the_documented_keys_and_the_same_tracks(batches):
    with np.load(batches / "0.npz", allow_pickle=False) as stored:
        shapes = {key: stored[key].shape for key in stored}
        about = json.loads(str(stored["metadata"]))
    assert shapes == {
        "X": (1000, 6),
        "Y": (1000, 4),
        "P": (1000,),
        "Z": (1000, 2),
        "z_frac": (1000, 3),
        "Y_col": (1000, 3, 4),
        "metadata": (),
    }
    assert about["config"]["field"] == "lhcb_like" and about["label"].startswith("rk4")
    columns, exact = read_npz(batches / "0.npz"), read_hdf5(batches / "0.h5")[0]
    assert all(np.allclose(columns[name], exact[name], rtol=1e-14) for name in exact)
    a, b = (load_data(TracksData(), batches / name) for name in ("0.npz", "0.h5"))
    assert torch.equal(a.splits["test"]["target"], b.splits["test"]["target"]) and a.splits["train"]["along"].shape == (
        800,
        3,
        4,
    )


def test_merging_checks_what_must_agree(batches, tmp_path):
    assert merge([batches / "0.h5", batches / "1.h5"], tmp_path / "both.npz") == 2000
    assert merge([batches / "0.npz", batches / "1.h5"], tmp_path / "both.h5") == 2000
    columns, attrs = read_hdf5(tmp_path / "both.h5")
    assert (
        np.array_equal(columns["target"], read_npz(tmp_path / "both.npz")["target"])
        and len(set(columns["group"])) == 2000
    )
    assert attrs["n_drawn"] > 2000 and attrs["config"]["n_tracks"] == 2000
    for again in ("0.h5", "0.npz"):
        with pytest.raises(DataError, match="again"):
            merge([tmp_path / "both.h5", batches / again], tmp_path / "wrong.h5")
    make_data(TracksData(n_tracks=100, seed=5, polarity=-1, collocation=3), tmp_path / "turned.h5")
    with pytest.raises(DataError, match="polarity"):
        merge([batches / "0.h5", tmp_path / "turned.h5"], tmp_path / "wrong.h5")
    make_data(TracksData(n_tracks=100, seed=5), tmp_path / "short.h5")
    with pytest.raises(DataError, match="collocation is 0, but 3"):
        merge([batches / "0.h5", tmp_path / "short.h5"], tmp_path / "wrong.h5")
    attrs = read_hdf5(tmp_path / "short.h5")[1]
    columns = read_hdf5(tmp_path / "short.h5")[0]
    write_hdf5(
        tmp_path / "mev.h5",
        columns,
        {**attrs, "columns": {**attrs["columns"], "q_over_p": "charge over momentum [1/MeV]"}},
    )
    with pytest.raises(DataError, match="units"):
        merge([tmp_path / "short.h5", tmp_path / "mev.h5"], tmp_path / "wrong.h5")
    assert not list(tmp_path.glob("*wrong*")) and not list(tmp_path.glob(".*"))


def test_momentum_regions_hold_each_track_once(batches, tmp_path):
    whole = read_hdf5(batches / "0.h5")[0]
    written = split_by_momentum(batches / "0.h5", tmp_path)
    assert [path.name for path in written] == ["0_low.h5", "0_mid.h5", "0_high.h5"] and sum(written.values()) == 1000
    groups = np.concatenate([read_hdf5(path)[0]["group"] for path in written])
    assert sorted(groups) == sorted(whole["group"])
    low = read_hdf5(tmp_path / "0_low.h5")
    assert (1 / np.abs(low[0]["q_over_p"])).max() < 5 and low[1]["config"]["p_high"] == 5
    assert [path.suffix for path in split_by_momentum(batches / "0.npz", tmp_path)] == [".npz"] * 3


def test_trajectories_follow_the_stored_tracks_through_every_form(tmp_path):
    config = TracksData(n_tracks=300, trajectories=5, collocation=2, z_start=4000.0, z_end=12000.0, **COARSE)
    for name in ("a.h5", "a.npz"):
        make_data(config, tmp_path / name)
    make_data(config.model_copy(update={"seed": 1}), tmp_path / "b.npz")
    columns, attrs = read_hdf5(tmp_path / "a.h5")
    path = columns["trajectory"]
    assert path.shape == (300, 5, 6) and "trajectory" in attrs["columns"]
    assert (
        np.array_equal(path[:, 0, 1:5], columns["state"])
        and np.abs(path[:, -1, 1:5] - columns["target"])[:, :2].max() < 1
    )
    assert (
        path[0, :, 0].tolist() == [4000, 6000, 8000, 10000, 12000]
        and (path[:, :, 5] == columns["q_over_p"][:, None]).all()
    )
    with np.load(tmp_path / "a.npz") as stored:
        assert np.allclose(stored["T"], path * [1, 1, 1, 1, 1, 1e-3], rtol=1e-14)
    assert merge([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "both.h5") == 600
    assert np.allclose(read_hdf5(tmp_path / "both.h5")[0]["trajectory"][:300], path, rtol=1e-14)
    parts = split_by_momentum(tmp_path / "both.h5", tmp_path)
    assert all(read_hdf5(part)[0]["trajectory"].shape == (rows, 5, 6) for part, rows in parts.items())
    assert set(load_data(config, tmp_path / "a.h5").splits["test"]) == {"inputs", "target", "bend", "fraction", "along"}
    with pytest.raises(ValueError, match="two planes"):
        TracksData(trajectories=1)


def test_merging_refuses_what_its_description_could_not_say(batches, tmp_path):
    make_data(TracksData(n_tracks=100, seed=7, legs="variable", collocation=3), tmp_path / "variable.h5")
    with pytest.raises(DataError, match="legs is 'variable', but 'fixed' in 0.h5"):
        merge([batches / "0.h5", tmp_path / "variable.h5"], tmp_path / "wrong.h5")
    make_data(TracksData(n_tracks=100, seed=7, z_end=9000.0, collocation=3), tmp_path / "longer.h5")
    with pytest.raises(DataError, match=r"z_end is 9000.0, but 7826.0"):
        merge([batches / "0.h5", tmp_path / "longer.h5"], tmp_path / "wrong.h5")


def test_merging_describes_what_may_differ(batches, tmp_path):
    make_data(TracksData(n_tracks=100, seed=7, collocation=3, p_low=2.0, p_high=200.0), tmp_path / "fast.h5")
    merge([batches / "0.h5", tmp_path / "fast.h5"], tmp_path / "both.h5")
    about = read_hdf5(tmp_path / "both.h5", [])[1]
    assert (about["config"]["p_low"], about["config"]["p_high"], about["config"]["label_step"]) == (0.5, 200.0, 500.0)
    assert "seed" not in about["config"] and about["config"]["n_tracks"] == 1100 and ";" in about["label"]


def test_a_part_of_a_file_says_what_is_true_of_the_part(batches, tmp_path):
    merge([batches / "0.h5", batches / "1.h5"], tmp_path / "both.h5")
    for whole in (batches / "0.h5", batches / "0.npz", tmp_path / "both.h5"):
        for path in split_by_momentum(whole, tmp_path):
            about = read_description(path)
            low, high = about["momentum_gev"]
            assert "n_drawn" not in about and "n_rejected" not in about  # nobody counted the rejected ones by momentum
            assert (about["config"]["p_low"], about["config"]["p_high"]) == (low, high)
        with pytest.raises(DataError, match="again"):
            merge([whole, tmp_path / f"{whole.stem}_low{whole.suffix}"], tmp_path / "wrong.h5")
    parts = [tmp_path / f"both_{name}.h5" for name in ("low", "mid", "high")]
    assert merge(parts, tmp_path / "whole.h5") == 2000
    assert read_description(tmp_path / "whole.h5")["momentum_gev"] == [
        0.5,
        100.0,
    ] and "n_drawn" not in read_description(tmp_path / "whole.h5")
    assert len(read_description(tmp_path / "whole.h5")["batches"]) == 2
    with pytest.raises(DataError, match="again"):
        merge([tmp_path / "whole.h5", parts[1]], tmp_path / "wrong.h5")


def several_rows(path, columns, order=None):
    """A file where particles have three rows each."""
    changed = {name: array[:999] for name, array in columns.items()} | {"group": np.repeat(np.arange(333), 3)}
    write_hdf5(path, changed if order is None else {name: array[order] for name, array in changed.items()})


def test_a_streamed_file_is_split_between_particles(batches, tmp_path):
    several_rows(tmp_path / "x.h5", read_hdf5(batches / "0.h5")[0])
    borders = split_borders(TracksData(), tmp_path / "x.h5")
    assert borders == (0, 801, 900, 999) and all(border % 3 == 0 for border in borders)
    data = load_data(TracksData(stream=True), tmp_path / "x.h5")
    assert [len(split["inputs"]) for split in data.splits.values()] == [801, 99, 99]
    source = train_source(data, 100, seed=3)
    stream = source.batches()
    batches_seen = [next(stream) for _ in range(source.batches_per_pass + 3)]
    first_pass = torch.cat([batch["target"] for batch in batches_seen[: source.batches_per_pass]])
    assert torch.equal(first_pass.sort(dim=0).values, data.splits["train"]["target"].sort(dim=0).values)
    assert torch.equal(next(source.batches(source.batches_per_pass + 2))["inputs"], batches_seen[-1]["inputs"])


def test_a_shuffled_file_cannot_be_streamed(batches, tmp_path):
    several_rows(tmp_path / "x.h5", read_hdf5(batches / "0.h5")[0], np.random.default_rng(0).permutation(999))
    with pytest.raises(DataError, match="sort it by group"):
        load_data(TracksData(stream=True), tmp_path / "x.h5")
    data = load_data(TracksData(stream=False), tmp_path / "x.h5")
    assert sum(len(split["inputs"]) for split in data.splits.values()) == 999


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_part_of_a_file_is_spread_over_it(batches, tmp_path, suffix):
    columns = {name: array for name, array in read_hdf5(batches / "0.h5")[0].items()}
    columns["state"][:, 0] = np.arange(1000)
    path = tmp_path / f"x{suffix}"
    if suffix == ".h5":
        write_hdf5(path, columns)
    else:
        write_npz(path, columns)
    data = load_data(TracksData(max_samples=100), path)
    x = torch.cat([split["inputs"][:, 0] for split in data.splits.values()]).sort().values
    assert x.tolist() == list(range(0, 1000, 10))


def test_a_bad_row_in_a_later_block_is_named(batches, tmp_path, monkeypatch):
    monkeypatch.setattr("thesis_surrogates.tracks.blocks.BLOCK", 100)
    columns = read_hdf5(batches / "0.h5")[0]
    columns["target"][777, 2] = np.nan
    write_hdf5(tmp_path / "x.h5", columns)
    for stream in (True, False):
        with pytest.raises(DataError, match="not finite in row 777"):
            load_data(TracksData(stream=stream), tmp_path / "x.h5")


# ---- the command line


def test_the_command_line_makes_merges_and_splits(tmp_path):
    answer = surrogates(
        "data",
        "tracks",
        "--preset",
        "seed_v1",
        "--set",
        "data.n_tracks=1_000",
        "--seed",
        3,
        "--out",
        "a.h5",
        "--set",
        "data.label_step=200",
        cwd=tmp_path,
    )
    assert answer.returncode == 0 and "a.h5" in answer.stdout, answer.stderr
    about = read_hdf5(tmp_path / "a.h5")[1]["config"]
    assert (about["seed"], about["n_tracks"], about["p_low"], about["z_end"], about["label_step"]) == (
        3,
        1000,
        0.5,
        12000.0,
        200.0,
    )
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    settings = ("--set", "data.n_tracks=1000", "--set", "data.label_step=200")
    words = ("data", "tracks", "--preset", "seed_v1", *settings, "--seed")
    assert surrogates(*words, 3, "--out", "a.h5", cwd=tmp_path).returncode == 0
    other = surrogates(*words, 4, "--out", "a.h5", cwd=tmp_path)
    assert (
        other.returncode == 2
        and "seed 3 instead of 4" in other.stderr
        and (tmp_path / "a.h5").stat().st_mtime_ns == before
    )
    assert surrogates(*words, 4, "--out", "b.npz", cwd=tmp_path).returncode == 0
    assert "2000 tracks" in surrogates("tracks", "merge", "a.h5", "b.npz", "--out", "c.h5", cwd=tmp_path).stdout
    assert surrogates("tracks", "split", "c.h5", cwd=tmp_path).stdout.count("split:") == 3
    assert "2000 tracks" in surrogates("tracks", "merge", "c.h5", "--out", "c.npz", cwd=tmp_path).stdout


def test_the_command_line_makes_points_and_trajectories_in_a_momentum_band(tmp_path):
    words = (
        "data",
        "tracks",
        "--preset",
        "mid",
        *(
            word
            for setting in ("n_tracks=100", "collocation=4", "trajectories=6", "label_step=200")
            for word in ("--set", f"data.{setting}")
        ),
        "--out",
        "a.npz",
    )
    answer = surrogates(*words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    with np.load(tmp_path / "a.npz") as stored:
        assert (stored["z_frac"].shape, stored["Y_col"].shape, stored["T"].shape) == (
            (100, 4),
            (100, 4, 4),
            (100, 6, 6),
        )
        assert 5 <= stored["P"].min() and stored["P"].max() <= 20


@pytest.mark.parametrize(
    "words, message",
    [
        (("data", "tracks", "--preset", "middle"), "did you mean 'mid"),
        (("data", "orbits", "--preset", "mid"), "none of this name"),
        (("data", "tracks/smoke", "--preset", "mid"), "name of a system"),
        (("data", "tracks/smoke", "--seed", "3"), "name of a system"),
        (("data", "tracks", "--set", "n_tracks=3"), "write --set data.n_tracks="),
        (("data", "tracks", "--set", "train.epochs=3"), "keys of data only; leave it out"),
        (("data", "tracks", "--set", "data.n_trakcs=3"), "did you mean 'n_tracks'"),
        (("data", "orbits", "--set", "data.collocation=3"), "data.collocation: unknown key"),
        (("data", "tracks", "--preset", "seed_v2"), "did you mean 'seed_v1'"),
        (("data", "orbits", "--preset", "seed_v1"), "none of this name"),
        (("data", "tracks", "orbits", "--out", "x.h5"), "one file"),
        (("data", "tracks", "--out", "x.csv"), ".npz"),
        (("data", "orbits", "--out", "x.npz"), ".h5"),
        (("data", "tracks", "--set", "data.n_tracks=3"), "data.n_tracks"),
        (("data", "tracks", "--tracks", "100"), "write --set data.n_tracks=N"),
        (("data", "tracks", "--collocation=4"), "write --set data.collocation=N"),
        (("data", "tracks", "--trajectories", "6"), "write --set data.trajectories=N"),
        (("data", "--momentum", "low", "tracks"), "write --preset low, mid or high"),
        (("tracks", "merge", "a.h5", "--out", "b.h5"), "no such file"),
        (("flavor", "merge", "a.h5"), "no commands of its own"),
    ],
)
def test_a_wrong_word_about_data_is_answered_in_one_line(tmp_path, words, message):
    answer = surrogates(*words, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stderr.startswith("error: ") and message in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr and not list(tmp_path.iterdir())  # no dataset, no lock either


FILES = {  # names of the files that a request of version 0.1.0 was given; they must never change
    ("leg", ""): "6a1be7e28e",
    ("leg", "low"): "edf7612726",
    ("leg", "mid"): "f5f67ac34b",
    ("leg", "high"): "07fcf0218e",
    ("seed_v1", ""): "b4114a7da3",
    ("seed_v1", "low"): "d032082277",
    ("seven_inputs", "high"): "7f04cbe009",
}


@pytest.mark.parametrize("legs, band", FILES)
def test_every_dataset_of_before_has_its_name(legs, band):
    """A leg and a momentum band were `--preset` and `--momentum`, the rest options of their own."""
    settings = ["data.n_tracks=100_000", "data.collocation=10"] if not band else []
    presets = [name for name in (legs, band) if name]
    config = choose_dataset(get_system("tracks"), presets, read_settings(settings))
    assert config.file_name("tracks") == f"tracks-{FILES[legs, band]}.h5"
    if legs == "leg" and band:
        assert config == PRESETS[band]
    if legs == "seed_v1" and band == "low":  # without a second preset it is the same, since seed_v1 begins at 0.5 GeV
        assert config == choose_dataset(get_system("tracks"), [legs], read_settings(["data.p_high=5"]))
