"""The programs of cpp/: the steppers give the numbers of Python, the surrogates reproduce the golden vector."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from thesis_surrogates.core.export.deployable import Column, Deployable  # noqa: E402
from thesis_surrogates.core.export.onnx import export_onnx  # noqa: E402
from thesis_surrogates.core.export.torch_programs import export_torchscript  # noqa: E402
from thesis_surrogates.tracks.exchange.native import (
    NativeError,
    build_native,
    missing_tools,
    native_rows,
    run_command,
    run_native,
    time_native,
)  # noqa: E402
from thesis_surrogates.tracks.field import DipoleField, GaussianField, GridField, LHCbLikeField, UniformField  # noqa: E402
from thesis_surrogates.tracks.propagation import propagate  # noqa: E402

CPP = Path(__file__).resolve().parent.parent / "cpp"
needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The programs, built once, rounding as Python does."""
    return build_native(tmp_path_factory.mktemp("cpp"), exact=True)


def tracks(n: int, seed: int, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    charge = rng.choice([-1, 1], n) / np.exp(rng.uniform(np.log(2), np.log(200), n))
    first = rng.uniform(0, 12_000, n)
    last = np.clip(first + np.exp(rng.uniform(np.log(25), np.log(9000), n)) * rng.choice([-1, 1], n), -400, 13_900)
    return np.stack(
        [
            *(spread * rng.uniform(-1, 1, (4, n)) * np.array([[300], [250], [0.15], [0.15]])),
            charge,
            first,
            last - first,
        ],
        axis=1,
    )


AXES = (np.arange(-4000.0, 4001, 400), np.arange(-4000.0, 4001, 500), np.arange(-500.0, 14_001, 290))
COARSE = GridField.sample(DipoleField(), AXES, polarity=-1)


@needs_tools
@pytest.mark.parametrize(
    "field",
    [UniformField(), GaussianField(), DipoleField(polarity=-1), LHCbLikeField(), LHCbLikeField(polarity=-1), COARSE],
    ids=["uniform", "gaussian", "dipole-", "lhcb_like", "lhcb_like-", "map-"],
)
@pytest.mark.parametrize(("method", "step"), [("rk4", 75.0), ("rk4", 1500.0), ("cash_karp", 1000.0)])
def test_baseline_is_the_python_stepper(programs, field, method, step):
    states = tracks(300, 3)
    states[0, 4], states[1, 6] = 0.0, 0.0  # neutral, and no distance at all
    wanted = propagate(states[:, :4], states[:, 4], states[:, 5], states[:, 5] + states[:, 6], field, method, step)
    found = run_native(programs, states, field, method, step)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.nanmax(np.abs(found - wanted)[:, :2]) <= 1e-9 and np.nanmax(np.abs(found - wanted)[:, 2:]) <= 1e-12


@needs_tools
def test_tracks_that_turn_over_are_lost_in_both(programs):
    states = tracks(50, 4)
    states[:, 4] = 3.0  # 0.3 GeV
    wanted = propagate(
        states[:, :4], states[:, 4], states[:, 5], states[:, 5] + states[:, 6], UniformField(), "rk4", 20.0
    )
    found = run_native(programs, states, UniformField(), "rk4", 20.0)
    assert np.isnan(wanted).any() and np.array_equal(np.isnan(found), np.isnan(wanted))


@needs_tools
def test_text_and_binary_maps_are_the_same(programs, tmp_path):
    small_map = GridField.sample(
        DipoleField(), (np.arange(-4e3, 4001, 1000), np.arange(-4e3, 4001, 2000), np.arange(-500.0, 14_001, 1450))
    )
    small_map.write(tmp_path / "map.txt")
    states = tracks(100, 5)
    states.tofile(tmp_path / "s.bin")
    run_command(
        [
            programs / "baseline",
            "--states",
            tmp_path / "s.bin",
            "--out",
            tmp_path / "f.bin",
            "--field",
            "grid",
            "--map",
            tmp_path / "map.txt",
            "--step",
            "100",
        ],
        "baseline",
    )
    text = GridField.read(tmp_path / "map.txt")
    assert (
        np.abs(np.fromfile(tmp_path / "f.bin").reshape(-1, 4) - run_native(programs, states, text, "rk4", 100.0)).max()
        <= 1e-9
    )


@needs_tools
def test_csv_in_and_out(programs, tmp_path):
    states = tracks(7, 6)
    np.savetxt(tmp_path / "s.csv", states, delimiter=",", header="x,y,tx,ty,qop,z0,dz", fmt="%.17g", comments="")
    run_command(
        [programs / "baseline", "--states", tmp_path / "s.csv", "--out", tmp_path / "f.csv", "--step", "100"],
        "baseline",
    )
    found = np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1)
    assert np.array_equal(found, run_native(programs, states, LHCbLikeField(), "rk4", 100.0))


@needs_tools
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speed", "1"], "unknown option"),
        (["--field", "toroid"], "choose uniform"),
        (["--method", "euler"], "choose rk4"),
        (["--step", "-1"], "positive"),
        (["--states", "nowhere.csv"], "cannot read"),
        (["--field", "grid", "--map", "nowhere"], "no field map"),
        (["--polarity", "2"], "1 or -1"),
    ],
)
def test_what_the_baseline_refuses(programs, tmp_path, options, message):
    (tmp_path / "s.csv").write_text("x\n0,0,0,0,0.1,0,100\n")
    given = (
        options
        if "--states" in options
        else ["--states", str(tmp_path / "s.csv"), "--out", str(tmp_path / "f.csv"), *options]
    )
    done = subprocess.run([programs / "baseline", *given], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr


@needs_tools
def test_golden_vector_from_the_header_in_git(programs):
    found = json.loads(
        run_command([programs / "from_header", "--golden", CPP / "golden" / "golden.csv"], "from_header")
    )
    assert found["passed"] and found["golden_rows"] == 32 and found["max_relative_difference"] < 1e-6


def make_golden(folder, monkeypatch):
    """The documented command, in this process."""
    monkeypatch.setattr(sys, "argv", ["make.py", "--folder", str(folder), "--all"])
    runpy.run_path(str(CPP / "golden" / "make.py"), run_name="__main__")


def test_golden_vector_can_be_made_again(tmp_path, monkeypatch):
    make_golden(tmp_path, monkeypatch)
    kept, made = (np.loadtxt(folder / "golden.csv", delimiter=",", skiprows=1) for folder in (CPP / "golden", tmp_path))
    assert np.allclose(kept, made, rtol=1e-10, atol=1e-12)
    assert {"golden.onnx", "golden.ts", "golden.hpp"} <= {path.name for path in tmp_path.iterdir()}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "golden.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: kept[:, :7].astype(np.float32)})
    assert (np.abs(answer - kept[:, 7:]).max(0) / np.abs(kept[:, 7:]).max(0)).max() < 1e-6


@needs_tools
def test_a_wrong_golden_vector_is_noticed(programs, tmp_path):
    lines = (CPP / "golden" / "golden.csv").read_text().splitlines()
    row = lines[3].split(",")
    row[7] = str(float(row[7]) + 1.0)
    (tmp_path / "wrong.csv").write_text("\n".join([*lines[:3], ",".join(row), *lines[4:]]) + "\n")
    done = subprocess.run(
        [programs / "from_header", "--golden", tmp_path / "wrong.csv"], capture_output=True, text=True
    )
    assert done.returncode == 1 and not json.loads(done.stdout)["passed"]


@needs_tools
def test_names_of_columns_come_from_what_the_header_says_of_itself(programs, tmp_path):
    lines = (CPP / "golden" / "golden.csv").read_text().splitlines()
    rows = [",".join(line.split(",")[:7]) for line in lines]
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    run_command([programs / "from_header", "--states", tmp_path / "s.csv", "--out", tmp_path / "f.csv"], "from_header")
    assert (tmp_path / "f.csv").read_text().splitlines()[0] == "x_end,y_end,tx_end,ty_end"
    swapped = [",".join([y, x, *rest]) for x, y, *rest in (row.split(",") for row in rows)]
    (tmp_path / "s.csv").write_text("\n".join(swapped) + "\n")
    done = subprocess.run(
        [programs / "from_header", "--states", tmp_path / "s.csv"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and "the order x,y,tx,ty,q_over_p,z0,dz" in done.stderr


class TwoInTwoOut(torch.nn.Module):
    """A matrix [B, 2, 3] and a number [B, 1] to two sums [B, 2] and a product [B]: shapes that no default knows."""

    def forward(self, cells: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return scale * cells.sum(2), cells.prod(2).prod(1)


def write_two_in_two_out(folder: Path, export, name: str) -> Path:
    """The model in a file, and in golden.csv eight rows with its answers."""
    rng = torch.Generator().manual_seed(0)
    inputs = {"cells": torch.rand(8, 2, 3, generator=rng) + 0.5, "scale": torch.rand(8, 1, generator=rng)}
    module, scale = TwoInTwoOut(), (Column(name="scale_mm", unit="mm"),)
    export(
        Deployable(module=module, inputs=inputs, outputs=("sums", "product"), columns={"scale": scale}), folder / name
    )
    parts = [tensor.reshape(8, -1) for tensor in (*inputs.values(), *module(*inputs.values()))]
    np.savetxt(folder / "golden.csv", torch.cat(parts, 1).numpy(), delimiter=",", header="a row", fmt="%.9g")
    return folder / name


def check_two_in_two_out(program: Path, model: Path) -> None:
    """The program finds shapes and names in the JSON beside the file, and says so where there is none."""
    asked = [program, "--model", model, "--golden", model.parent / "golden.csv"]
    assert json.loads(run_command(asked, program.name))["passed"]
    np.savetxt(model.parent / "s.csv", np.ones((2, 7)), delimiter=",", header="a row")
    run_command([*asked[:3], "--states", model.parent / "s.csv", "--out", model.parent / "f.csv"], program.name)
    head, first, _ = (model.parent / "f.csv").read_text().splitlines()
    assert head == "sums_0,sums_1,product" and first == "3,3,1"
    card = model.with_name(model.name + ".json")
    text = card.read_text()
    for broken, words in {
        text[: len(text) // 2]: "not readable as JSON",
        "{}": 'no "card"',
        text.replace('"type": "float32"', '"type": "int64"'): "cells is of type int64",
        None: "export the surrogate again",
    }.items():
        card.unlink() if broken is None else card.write_text(broken)
        done = subprocess.run([str(word) for word in asked], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr, done.stderr


@needs_tools
def test_rows_for_a_table_of_costs(programs):
    states = tracks(64, 8)
    rows = native_rows(programs, states, steps=(4,), tolerances=(1e-2,), surrogate="net", count=2000, repeats=2)
    assert list(rows.contender) == ["net", "C++ RK4 4 steps", "C++ Cash-Karp 0.01 mm"] and list(rows.kind) == [
        "surrogate",
        "baseline",
        "baseline",
    ]
    assert (rows[["us_per_track", "single_us"]] > 0).all(axis=None) and (rows.states == 2000).all()
    assert time_native(programs / "baseline", states, ["--step", "100"], 500, 1)["method"] == "rk4"


@needs_tools
def test_native_errors_are_ours(programs, tmp_path):
    with pytest.raises(NativeError, match="shape"):
        run_native(programs, np.zeros((3, 6)))
    with pytest.raises(NativeError, match="default numbers"):
        run_native(programs, tracks(2, 0), GaussianField(width=2.0))
    (tmp_path / "m.hpp").write_text("int main() {}\n")
    with pytest.raises(NativeError, match="no namespace"):
        build_native(tmp_path / "b", tmp_path / "m.hpp")


def onnxruntime_library() -> Path | None:
    """The shared library that ONNX Runtime's Python package brings, or None where it has none that can be linked."""
    spec = importlib.util.find_spec("onnxruntime")
    found = sorted(Path(str(spec.origin)).parent.glob("capi/libonnxruntime.so.*")) if spec else []
    return found[0] if found else None


@pytest.fixture(scope="session")
def from_onnx(tmp_path_factory):
    """The ONNX consumer, built against the library of the Python package alone."""
    folder = tmp_path_factory.mktemp("from_onnx")
    options = ["-DONNX=ON", "-DBASELINE=OFF", "-DMODEL_HEADER=", f"-DONNXRUNTIME_LIBRARY={onnxruntime_library()}"]
    run_command(["cmake", "-S", CPP, "-B", folder, *options], "CMake")
    run_command(["cmake", "--build", folder], "build")
    return folder / "from_onnx"


needs_library = pytest.mark.skipif(
    onnxruntime_library() is None, reason="this ONNX Runtime package has no shared library (libonnxruntime.so) to link"
)


@needs_tools
@needs_library
def test_golden_vector_from_onnx(from_onnx, tmp_path, monkeypatch):
    make_golden(tmp_path, monkeypatch)
    asked = [from_onnx, "--model", tmp_path / "golden.onnx"]
    found = json.loads(run_command([*asked, "--golden", tmp_path / "golden.csv"], "from_onnx"))
    assert found["passed"] and found["golden_rows"] == 32 and found["max_relative_difference"] < 1e-6
    np.loadtxt(tmp_path / "golden.csv", delimiter=",", skiprows=1)[:, :7].tofile(tmp_path / "states.bin")
    timed = json.loads(
        run_command([*asked, "--states", tmp_path / "states.bin", "--time", "2000", "--repeats", "2"], "from_onnx")
    )
    assert timed["single_ns"] > timed["many_ns"] > 0


@needs_tools
@needs_library
def test_shapes_and_names_come_from_the_json_beside_the_file(from_onnx, tmp_path):
    check_two_in_two_out(from_onnx, write_two_in_two_out(tmp_path, export_onnx, "two.onnx"))


@needs_tools
@needs_library
def test_what_onnx_runtime_complains_about_is_said(from_onnx, tmp_path):
    (tmp_path / "none.onnx.json").write_text((CPP / "golden" / "golden.hpp.json").read_text())
    done = subprocess.run(
        [from_onnx, "--model", tmp_path / "none.onnx", "--golden", CPP / "golden" / "golden.csv"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "none.onnx failed" in done.stderr


@needs_tools
@pytest.mark.skipif(
    "THESIS_SLOW" not in os.environ, reason="compiles libtorch headers, half a minute: set THESIS_SLOW=1"
)
def test_golden_vector_from_torchscript(tmp_path, monkeypatch):
    make_golden(tmp_path, monkeypatch)
    options = [
        "-DTORCHSCRIPT=ON",
        "-DBASELINE=OFF",
        "-DMODEL_HEADER=",
        f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
    ]
    run_command(["cmake", "-S", CPP, "-B", tmp_path / "build", *options], "CMake")
    run_command(["cmake", "--build", tmp_path / "build"], "build")
    found = json.loads(
        run_command(
            [
                tmp_path / "build" / "from_torchscript",
                "--model",
                tmp_path / "golden.ts",
                "--golden",
                tmp_path / "golden.csv",
            ],
            "from_torchscript",
        )
    )
    assert found["passed"] and found["max_relative_difference"] < 1e-6
    model = write_two_in_two_out(tmp_path, export_torchscript, "two.ts")
    check_two_in_two_out(tmp_path / "build" / "from_torchscript", model)
