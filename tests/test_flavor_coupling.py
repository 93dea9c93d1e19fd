"""What a simulation takes from a flavor run: a file of weights with its reader, doors for C and Fortran, an example."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from thesis_surrogates.core.config import ConfigError
from thesis_surrogates.core.export.cpp_compiler import find_compiler
from thesis_surrogates.core.export.cpp_weights import export_weights
from thesis_surrogates.core.export.deployable import (
    Deployable,
    ExportError,
    all_entry_points,
    as_tuple,
    compute_outputs,
)
from thesis_surrogates.core.export.example_file import write_golden
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.deployed import deploy, nsm1
from thesis_surrogates.running.exported_files import check_device, writer_of

pytestmark = pytest.mark.timeout(1500)  # graphs are recorded and compiled: minutes on a loaded machine
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")
needs_fortran = pytest.mark.skipif(shutil.which("gfortran") is None, reason="no gfortran found")

CPP = Path(__file__).resolve().parent.parent / "cpp"
SMALL = {"name": "ymatrix", "width": 8, "trunk_layers": 1, "head_layers": 0, "gate": "learned", "physical": True}


@pytest.fixture(scope="module")
def network():
    found = build(SMALL, seed=2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return found


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """A folder with a file of weights and all that lies beside it, and the door as a library."""
    folder = tmp_path_factory.mktemp("weights")
    report = export_weights(deploy(network), folder / "model.bin", states=300)
    assert report.compiled == (find_compiler() is not None) and report.max_relative_difference <= report.tolerance
    return folder


@pytest.fixture(scope="module")
def library(exported):
    target, door = exported / "door.so", exported / "model.cpp"
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([find_compiler(), *options, str(door), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def open_weights(library, path):
    message = ctypes.create_string_buffer(512)
    library.model_open.restype = ctypes.c_void_p
    handle = library.model_open(str(path).encode(), message, ctypes.c_size_t(512))
    return handle, message.value.decode()


def ask(library, handle, name, rows, outputs):
    """Answers of an entry point to rows, through the door for C."""
    found = np.full((len(rows), outputs), np.nan, rows.dtype)
    function = getattr(library, f"model_{name}_{'f64' if rows.dtype == np.float64 else 'f32'}")
    function(*map(ctypes.c_void_p, (handle, rows.ctypes.data, found.ctypes.data)), ctypes.c_size_t(len(rows)))
    return found


def flat(tensors, kind):
    return np.ascontiguousarray(np.concatenate([np.asarray(t.unsqueeze(-1).flatten(1)) for t in tensors], axis=1), kind)


@needs_compiler
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [0, 1, 7, 10_000])
def test_all_questions_in_batches_of_any_size(network, exported, library, rows, kind):
    handle, _ = open_weights(library, exported / "model.bin")
    module = network if kind == np.float32 else build(SMALL, seed=2).double()
    module.load_state_dict(network.state_dict())
    for name, entry in all_entry_points(deploy(module)).items():
        given = [tensor[torch.arange(rows) % len(tensor)] for tensor in entry.inputs.values()]
        wanted = flat(as_tuple(compute_outputs(entry.module, given)), np.float64)
        found = ask(library, handle, name, flat(given, kind), wanted.shape[1])
        allowed = (1e-3 if kind == np.float32 else 1e-6) * np.abs(wanted).max(0, initial=1e-300)  # constants are single
        assert (np.abs(found - wanted) <= allowed).all(), name


@needs_compiler
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_cell_that_is_none_comes_back_bit_for_bit_and_is_flagged(exported, library, kind):
    handle, _ = open_weights(library, exported / "model.bin")
    cells = np.repeat(nsm1(), 6, axis=0).astype(kind)
    cells[1, 3, 0, 0], cells[2, 1, 1, 1], cells[3, 3, 1, 1], cells[4, 0, 0, 0] = 0, np.nan, -1e30, 2e33
    cells[5, 2, 0, 1] = np.inf
    rows = cells.reshape(6, 24)
    found = ask(library, handle, "predict_all", rows, 26)
    assert found[1:, :24].tobytes() == rows[1:].tobytes() and (found[1:, 24:] == [0, 1]).all()
    assert ask(library, handle, "is_physical", rows, 1)[:, 0].tolist() == [1, 0, 0, 0, 0, 0]
    matrices = ask(library, handle, "predict_WhiskyTHC", rows, 73)
    assert (matrices[1:, :36].reshape(-1, 6, 6) == np.eye(6)).all() and (matrices[1:, 72] == 0).all()
    alone = [ask(library, handle, "predict_all", rows[k : k + 1], 26) for k in range(6)]
    assert np.concatenate(alone).tobytes() == found.tobytes()


@needs_compiler
def test_the_matrices_reproduce_the_final_state(network, exported, library):
    handle, _ = open_weights(library, exported / "model.bin")
    rows = flat(deploy(network).inputs.values(), np.float64)
    final = ask(library, handle, "predict_all", rows, 26)[:, :24].reshape(-1, 4, 6)
    y = ask(library, handle, "predict_WhiskyTHC", rows, 73)
    cells = rows.reshape(-1, 4, 6)
    density, flux = y[:, :36].reshape(-1, 6, 6), y[:, 36:72].reshape(-1, 6, 6)
    by_hand = np.concatenate(
        [np.einsum("bij,bkj->bki", flux, cells[:, :3]), np.einsum("bij,bj->bi", density, cells[:, 3])[:, None]], 1
    )
    assert np.abs(by_hand - final).max() <= 1e-12 * cells[:, 3].sum(1).max()


@needs_compiler
def test_threads_share_a_surrogate(network, exported, library):
    handle, _ = open_weights(library, exported / "model.bin")
    rows = np.tile(flat(deploy(network).inputs.values(), np.float32), (20, 1))
    alone, together = ask(library, handle, "predict_all", rows, 26), [None] * 4

    def one(k):
        together[k] = ask(library, handle, "predict_all", rows, 26)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found.tobytes() == alone.tobytes() for found in together)
    text = "".join((exported / f"model.{kind}").read_text() for kind in ("hpp", "cpp"))
    assert not any(word in text for word in ("#pragma omp", "omp_", "std::thread"))


@needs_compiler
def test_a_file_that_does_not_belong_is_refused_in_one_line(exported, library, tmp_path):
    whole = (exported / "model.bin").read_bytes()
    cases = {
        "cut.bin": (whole[:-64], "copy it again"),
        "text.bin": (b"no weights" * 20, "200 bytes); export with --format weights"),
        "other.bin": (whole[:32] + b"f" * 64 + whole[96:], "keep the files of one export together"),
        "empty.bin": (b"", "(0 bytes)"),
    }
    for name, (content, remedy) in cases.items():
        (tmp_path / name).write_bytes(content)
        handle, message = open_weights(library, tmp_path / name)
        assert handle is None and remedy in message and name in message and "\n" not in message
    handle, message = open_weights(library, tmp_path / "nowhere.bin")
    assert handle is None and "cannot be read" in message


@needs_compiler
def test_the_example_runs_without_the_package(exported):
    done = subprocess.run([sys.executable, "-I", "example.py"], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("n_nu_e"))
    assert "9.9546e+32" in line and line.endswith("1/cm^3") and "Emu" in done.stdout
    assert "thesis_surrogates" not in (exported / "example.py").read_text()
    missing = subprocess.run([sys.executable, "example.py", "no.bin"], cwd=exported, capture_output=True, text=True)
    assert missing.returncode != 0 and "give an exported file" in missing.stderr
    alone = subprocess.run(
        [sys.executable, "-I", "example.py"], cwd=exported, capture_output=True, text=True, env={"PATH": ""}
    )
    assert alone.returncode != 0 and "install g++ or clang++" in alone.stderr.splitlines()[-1]


def test_a_file_says_what_it_holds(exported):
    """The layout that the documentation gives, read with nothing but the standard library."""
    content = (exported / "model.bin").read_bytes()
    size, length, first = np.frombuffer(content, "<u8", 3, 8).tolist()
    assert content[:8] == b"SURRWTS1" and size == len(content) and first % 64 == 0
    text = json.loads(content[96 : 96 + length])
    assert text["program"].encode() == content[32:96]
    assert list(text["card"]["entry_points"])[1:] == list(deploy(build(SMALL)).entry_points)
    kinds = {"float": "<f4", "double": "<f8"}
    for array in text["arrays"]:
        assert np.isfinite(np.frombuffer(content, kinds[array["type"]], array["count"], first + array["place"])).all()


@needs_compiler
def test_the_program_in_cpp_reproduces_the_golden_rows(network, exported, tmp_path):
    write_golden(deploy(network), tmp_path / "golden")
    reader = f'-DMODEL_READER="{exported / "model.hpp"}"'
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CPP / 'include'}", reader]
    source = [str(CPP / "src" / "flavor.cpp"), "-DMODEL_NAMESPACE=model", "-o", "flavor"]
    subprocess.run([find_compiler(), *options, *source], cwd=tmp_path, check=True)
    command = ["./flavor", "--model", str(exported / "model.bin")]
    done = subprocess.run([*command, "--golden", "golden"], cwd=tmp_path, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 2 * 8 and all(line["passed"] for line in lines), done.stdout
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and "9.9546e+32" in shown.stdout and "growth rate" in shown.stdout
    wrong = subprocess.run([*command[:2], "golden/forward.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "is no file of weights" in wrong.stderr and wrong.stderr.count("\n") == 1


@needs_compiler
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake found")
def test_cmake_builds_it_when_it_is_asked_for(exported, tmp_path):
    switches = ["-DBASELINE=OFF", "-DMODEL_HEADER=", f"-DFLAVOR_READER={exported / 'model.hpp'}"]
    slow = ["-DCMAKE_CXX_FLAGS_RELEASE=-O0"]
    subprocess.run(["cmake", "-S", str(CPP), "-B", str(tmp_path), *switches, *slow], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    shown = subprocess.run([str(tmp_path / "flavor"), "--model", str(exported / "model.bin")], capture_output=True)
    assert b"9.9546e+32" in shown.stdout


@needs_compiler
@needs_fortran
def test_fortran_calls_the_door(exported, tmp_path):
    build_fortran = ["gfortran", "-O1", "-ffree-line-length-none", str(exported / "model.f90")]
    source = CPP / "src" / "flavor.f90"
    done = subprocess.run(
        [*build_fortran, str(source), str(exported / "door.so"), "-o", "cell"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(["./cell", str(exported / "model.bin")], cwd=tmp_path, capture_output=True, text=True)
    assert "0.99546E+33" in shown.stdout and shown.returncode == 0


@needs_compiler
def test_the_signatures_of_fortran_are_those_of_c(exported, tmp_path):
    """Each name that Fortran binds stands in the C header, which a C program takes as it is."""
    header, fortran = (exported / "model.h").read_text(), (exported / "model.f90").read_text()
    bound = re.findall(r'bind\(c, name="(\w+)"\)', fortran)
    assert set(bound) == set(re.findall(r"(\w+)\((?:const|void|char)", header)) and len(bound) == len(set(bound)) == 18
    for name in bound[2:]:
        c = re.search(rf"{name}\((.*)\);", header)[1].split(", ")
        f = re.search(rf"subroutine {name}\((.*?)\) bind.*?\n(.*?)end subroutine", fortran, re.S)
        real = "c_float" if name.endswith("f32") else "c_double"
        assert len(c) == len(f[1].split(", ")) == 4 and f[2].count(f"real({real}), intent") == 2
        assert c[0] == "const void* handle" and "type(c_ptr), value :: handle" in f[2]
        assert c[3] == "size_t rows" and "integer(c_size_t), value :: rows" in f[2]
    assert max(map(len, fortran.splitlines())) <= 132
    (tmp_path / "a.c").write_text('#include "model.h"\nint main(void) { return model_predict_all_inputs - 24; }\n')
    done = subprocess.run(
        ["gcc", "-Wall", "-Werror", f"-I{exported}", "a.c", "-o", "a"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_script_shows_the_known_case_too(network, tmp_path):
    alone = type(deploy(network))(**{**vars(deploy(network)), "entry_points": {}})
    export_torchscript(alone, tmp_path / "model.ts", states=100)
    shown = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True).stdout
    final = network.predict_all(nsm1().astype(np.float32))[0][0, 3, 0, 0]
    assert f"{final:14.5g}    9.9546e+32" in shown


@pytest.mark.parametrize(
    ("device", "form", "remedy"),
    [("tpu", "onnx", "--device tpu: unknown"), ("cuda", "weights", "take --format torchscript")],
)
def test_a_device_that_does_not_fit_is_refused(device, form, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_device(device, form)
    with pytest.raises(ConfigError, match="--format weight: unknown; did you mean 'weights'"):
        writer_of("weight")


@needs_compiler
def test_two_readers_of_one_name_live_in_one_process(network, exported, library, tmp_path):
    """Tables of a reader have process-wide symbols; those of another architecture must not be taken for them."""
    point = deploy(network).entry_points["convert_y_to_2flavor"]
    other = Deployable(**vars(point))
    assert export_weights(other, tmp_path / "model.bin", states=100).max_relative_difference <= 1e-5


def test_a_name_that_c_cannot_take_is_refused(network, tmp_path):
    with pytest.raises(ExportError, match="must be C\\+\\+ names"):
        export_weights(deploy(network), tmp_path / "1st.bin", states=100)
