"""Shared by all tests: one thread, and small runs that several tests look at."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Runs of another worker train "beside" these if they see them, and then nobody measures a cost.
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tests-")
atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

import pytest

from thesis_surrogates.running.execution import run
from thesis_surrogates.running.registry import SYSTEMS, load_suite

# Files that take long, the longest first: started last, one of them would run alone while the other cores have nothing.
LONG = ["running", "readme", "templates", "many_runs", "site", "tracks_data", "tracks_runtimes", "export_rows", "wheel"]


def pytest_collection_modifyitems(items):
    """Long files first; within a file the order stays."""
    rank = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Datasets of this test session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory, data_dir):
    """The first run of every system's smoke suite, executed in this process on first use."""
    out, done = tmp_path_factory.mktemp("runs"), {}

    def get(system):
        if system not in done:
            done[system] = run(load_suite(f"{system}/smoke")[0], out=out, data_dir=data_dir)
        return done[system]

    return get


@pytest.fixture(params=list(SYSTEMS))
def system_name(request):
    """The test runs once for every system."""
    return request.param
