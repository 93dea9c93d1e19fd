"""Data: sources, splits, files and scalers under less friendly conditions."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thesis_surrogates.core.data import TensorSource, ZipSource, moments, split_by_group
from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.hdf5 import Hdf5Source, Hdf5Writer, read_hdf5, write_hdf5


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=3, max_size=200).filter(lambda g: len(set(g)) >= 3),
    seed=st.integers(0, 99),
)
def test_no_group_is_ever_in_two_splits(groups, seed):
    labels = np.array(groups)
    rows = split_by_group(labels, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed)
    sets = [set(labels[index]) for index in rows.values()]
    assert all(len(index) for index in rows.values())
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(labels)))


def test_bad_shares_are_refused():
    with pytest.raises(DataError, match="sum to"):
        split_by_group(np.arange(10), {"train": 0.8, "test": 0.1}, 0)
    with pytest.raises(DataError, match="groups cannot fill"):
        split_by_group(np.zeros(10, int), {"train": 0.5, "test": 0.5}, 0)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 500),
    batch=st.integers(1, 120),
    block=st.integers(1, 90),
    window=st.integers(1, 5),
    start=st.integers(0, 12),
)
def test_a_stream_is_a_permutation_and_can_begin_anywhere(tmp_path_factory, rows, batch, block, window, start):
    path = tmp_path_factory.mktemp("stream") / "x.h5"
    write_hdf5(path, {"x": np.arange(rows)})
    source = Hdf5Source(path, ("x",), batch, seed=3, block=block, window=window)
    stream = source.batches()
    batches = [next(stream)["x"] for _ in range(source.batches_per_pass + start + 1)]
    assert sorted(torch.cat(batches[: source.batches_per_pass]).tolist()) == list(range(rows))
    assert torch.equal(next(source.batches(start))["x"], batches[start])


def test_a_part_of_a_file_is_streamed_alone(tmp_path):
    write_hdf5(tmp_path / "x.h5", {"x": np.arange(100)})
    source = Hdf5Source(tmp_path / "x.h5", ("x",), 10, seed=0, block=7, window=2, rows=(20, 60))
    stream = source.batches()
    seen = torch.cat([next(stream)["x"] for _ in range(source.batches_per_pass)])
    assert sorted(seen.tolist()) == list(range(20, 60))


def test_streaming_needs_memory_for_the_window_only(tmp_path):
    path = tmp_path / "large.h5"
    with Hdf5Writer(path) as writer:
        for _ in range(40):
            writer.append({"x": np.zeros((50_000, 8), dtype="f4")})  # 64 MB in all
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom thesis_surrogates.core.hdf5 import Hdf5Source\n"
        "source = Hdf5Source(Path(sys.argv[1]), ('x',), 4096, seed=0, block=4096, window=4)\n"
        "stream = source.batches()\n"
        "for _ in range(100): next(stream)\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(2 * source.batches_per_pass): next(stream)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = int(
        subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout
    )
    assert grown < 20_000, f"{grown} KiB more after a whole pass over 64 MB"


def test_weights_draw_in_proportion_and_repeat():
    source = TensorSource({"x": torch.arange(3)}, 1000, seed=0, weights=torch.tensor([0.0, 1.0, 3.0]))
    first = torch.cat([next(stream)["x"] for stream in [source.batches()] for _ in range(2000)])
    assert (first == 0).sum() == 0 and abs((first == 2).float().mean() - 0.75) < 0.03
    assert torch.equal(next(source.batches())["x"], next(source.batches())["x"])


def test_sources_refuse_ragged_or_empty_tensors():
    for tensors in ({"x": torch.zeros(3), "y": torch.zeros(2)}, {"x": torch.zeros(0)}):
        with pytest.raises(DataError, match="one common, positive length"):
            TensorSource(tensors, 4, seed=0)


def test_zipped_sources_resume_together():
    pair = ZipSource(
        {"a": TensorSource({"x": torch.arange(7)}, 2, seed=1), "b": TensorSource({"x": torch.arange(5)}, 2, seed=2)}
    )
    stream = pair.batches()
    batches = [next(stream) for _ in range(12)]
    again = next(pair.batches(9))
    assert all(torch.equal(again[name]["x"], batches[9][name]["x"]) for name in "ab")


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), Hdf5Writer(tmp_path / "x.h5") as writer:
        writer.append({"x": np.zeros(3)})
        raise KeyError("interrupted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_file_is_an_error_with_a_remedy(tmp_path, damage):
    path = tmp_path / "x.h5"
    write_hdf5(path, {"x": np.arange(1e5)})
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not a dataset", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DataError, match="--again; a file of your own"):
        read_hdf5(path)


def test_missing_file_and_missing_dataset(tmp_path):
    with pytest.raises(DataError, match="no such dataset"):
        read_hdf5(tmp_path / "x.h5")
    write_hdf5(tmp_path / "x.h5", {"x": np.arange(3)})
    with pytest.raises(DataError, match="no dataset 'y'; the file holds"):
        read_hdf5(tmp_path / "x.h5", names=["y"])


def test_scalars_and_slices_are_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["nf"], file["x"] = 3, np.arange(10)
    arrays, _ = read_hdf5(tmp_path / "x.h5", rows=slice(2, 5))
    assert arrays["nf"] == 3 and arrays["x"].tolist() == [2, 3, 4]


def test_moments_refuse_what_they_cannot_mean():
    with pytest.raises(DataError, match="no real rows"):
        moments(torch.zeros(2, 3, 1), torch.zeros(2, 3))
    with pytest.raises(DataError, match="feature 1 holds a value that is not finite"):
        moments(torch.tensor([[0.0, float("nan")]]))
