"""What exported programs do with rows that have no answer, and with numbers at the edge: every model, every runtime.

Headers that have every operation are compiled once, together, with the sanitizers for addresses and undefined
behaviour.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from small_models import every_deployable  # noqa: E402
from torch import nn  # noqa: E402

from thesis_surrogates.core.export import cpp_header  # noqa: E402
from thesis_surrogates.core.export.cpp_header import compile_source, export_header, find_compiler  # noqa: E402
from thesis_surrogates.core.export.deployable import (  # noqa: E402
    Column,
    Deployable,
    ExportError,
    as_tuple,
    check_examples,
    compute_outputs,
    random_states,
)
from thesis_surrogates.core.export.onnx import (  # noqa: E402
    compare_outputs,
    export_onnx,
    load_onnx,
    silence_exporter,
    write_onnx,
)
from thesis_surrogates.core.export.torch_programs import (  # noqa: E402
    export_torchscript,
    load_torchscript,
    write_torchscript,
)

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")
BROKEN = (np.nan, np.inf, -np.inf)
EXTREME = (0.0, 1e-42, -1e-42, 1e30, -1e30, 3.4e38, -3.4e38)  # 1e-42 is subnormal in single precision
SANITIZED = ("-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


class Table(nn.Module):
    """A number that is looked up at a computed place, and the place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("numbers", torch.arange(50.0) ** 2)

    def forward(self, x, word):
        place = (10 * x[:, 0]).clamp(0, 49).floor().long()
        return self.numbers[place] / x[:, 1] + word.sum(1), place


def table(**changes):
    words = tuple(Column(name=f"w{k}", unit="id", lowest=0, highest=7) for k in range(3))
    inputs = {"x": 1 + torch.rand(32, 2), "word": torch.arange(96).reshape(32, 3) % 8}
    columns = {"word": words}
    return Deployable(module=Table(), inputs=inputs, outputs=("square", "place"), columns=columns, **changes)


def hard_table_rows():
    """Rows for the table, and which have an answer."""
    x = torch.tensor([[1.0, 1.0], [torch.nan, 1.0], [1.0, -torch.inf], [torch.inf, 1.0], [1e30, 1.0], [2.0, 0.0]])
    x = torch.cat([x, x[:1], x[:1], x[:1]])
    word = torch.ones(len(x), 3, dtype=torch.int64)
    word[6, 1], word[7, 2] = 8, -1
    return (x, word), torch.tensor([True, False, False, False, True, False, False, False, True])


def check_table(exported):
    rows, sound = hard_table_rows()
    with torch.no_grad():
        square, place = as_tuple(exported(*rows))
    assert square[sound].tolist() == [103.0, 2404.0, 103.0] and place[sound].tolist() == [10, 49, 10]
    assert square[~sound].isnan().all() and (place[~sound] == -1).all()


def test_a_row_without_an_answer_leaves_its_neighbours_alone(tmp_path):
    deployable = table()
    for export, load in ((export_onnx, load_onnx), (export_torchscript, load_torchscript)):
        export(deployable, tmp_path / "table", states=200)
        check_table(load(tmp_path / "table"))


class HidesNaN(nn.Module):
    def forward(self, x):
        return torch.nan_to_num(x)


def test_a_file_that_answers_a_broken_row_is_not_written(tmp_path, monkeypatch):
    def write_unguarded(deployable, originals, path):
        write_torchscript(deployable, {"forward": (HidesNaN().eval(), originals["forward"][1])}, path)

    monkeypatch.setattr("thesis_surrogates.core.export.torch_programs.write_torchscript", write_unguarded)
    hiding = Deployable(module=HidesNaN(), inputs={"x": torch.rand(8, 2)}, outputs=("y",))
    with pytest.raises(ExportError, match="differs from torch by inf"):
        export_torchscript(hiding, tmp_path / "m.pt", states=200)
    assert not list(tmp_path.iterdir())


def hard_rows(examples):
    """Each number of a typical row replaced by each hard one; whether the row is broken. Row 0 is as it was."""
    flat = [tensor[:1].reshape(1, -1) for tensor in examples]
    places = [(k, c) for k, one in enumerate(flat) if one.is_floating_point() for c in range(one.shape[1])]
    tries = list(itertools.product(places, (*BROKEN, *EXTREME)))
    rows = [one.repeat(1 + len(tries), 1) for one in flat]
    for row, ((k, column), value) in enumerate(tries, 1):
        rows[k][row, column] = value
    broken = np.array([False, *(value in BROKEN[1:] or np.isnan(value) for _, value in tries)])
    return [one.reshape(len(one), *given.shape[1:]) for one, given in zip(rows, examples, strict=True)], broken


def flat(results):
    """Results of all outputs side by side [N, numbers], whole numbers too."""
    return np.concatenate([np.asarray(r.unsqueeze(-1).flatten(1), np.float64) for r in as_tuple(results)], 1)


def check_rows(answer, broken, typical, tolerance, guarded=True):
    """Broken rows have no answer, a row has all of its answer or nothing, and the first one is the usual one.

    A model that is not guarded has its own answer for a broken row.
    """
    if guarded:
        missing = np.isnan(answer) | (answer == -1)
        assert missing[broken].all()
        assert np.isfinite(answer[~np.isnan(answer).any(1)]).all()
    assert np.abs(answer[0] - typical).max() <= tolerance * np.maximum(1.0, np.abs(typical)).max()


DEPLOYABLES = every_deployable()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """By the name of a model: it with its guard, its examples and its ONNX file, written on first use."""
    folder = tmp_path_factory.mktemp("rows")

    @cache
    def write(name):
        deployable, path = DEPLOYABLES[name], folder / f"{name}.onnx"
        module, examples = check_examples(deployable)
        with silence_exporter():
            write_onnx(module, examples, path, list(deployable.inputs), deployable.outputs, 18)
        return module, examples, path

    return write


@pytest.mark.parametrize("name", DEPLOYABLES)
def test_every_model_answers_hard_rows_in_torch_onnx_and_torchscript(written, tmp_path, name):
    deployable, (module, examples, path) = DEPLOYABLES[name], written(name)
    write_torchscript(deployable, {"forward": (module, examples)}, tmp_path / "m.ts")
    rows, broken = hard_rows(examples)
    typical = flat(compute_outputs(deployable.module, [tensor[:1] for tensor in examples]))[0]
    for run in (module, load_onnx(path), load_torchscript(tmp_path / "m.ts")):
        check_rows(flat(compute_outputs(run, rows)), broken, typical, deployable.tolerance, deployable.guarded)
        assert compare_outputs(deployable, module, run, 500)[0] <= deployable.tolerance
        for count in (0, 1, 7):
            assert all(len(r) == count for r in as_tuple(compute_outputs(run, random_states(deployable, count))))


PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <memory>
// Arrays of their very size on the heap, so that reading or writing beside one is seen.
template <std::size_t Inputs, std::size_t Outputs, class Call>
int answer(Call call) {
  std::unique_ptr<float[]> in(new float[Inputs]);
  while (std::fread(in.get(), sizeof(float), Inputs, stdin) == Inputs) {
    std::unique_ptr<float[]> out(new float[Outputs]);
    call(in.get(), out.get());
    std::fwrite(out.get(), sizeof(float), Outputs, stdout);
  }
  return 0;
}
int main(int, char** words) {
  switch (std::atoi(words[1])) {
"""


def covering(paths: dict[str, Path]) -> list[str]:
    """Few of the models with every operation that any of them has; all of them with THESIS_SLOW=1."""
    if "THESIS_SLOW" in os.environ:
        return list(paths)
    operations = {name: {node.op_type for node in onnx.load(path).graph.node} for name, path in paths.items()}
    missing, chosen = set().union(*operations.values()), []
    while missing:
        chosen.append(max(operations, key=lambda name: len(operations[name] & missing)))
        missing -= operations[chosen[-1]]
    return chosen


@pytest.fixture(scope="module")
def sanitized(written, tmp_path_factory):
    """One program with the headers of `covering` models, compiled with sanitizers, and the models in its order; its
    first word is the number of the model.
    """
    folder = tmp_path_factory.mktemp("sanitized")
    includes, cases = [], []
    chosen = covering({name: written(name)[2] for name in DEPLOYABLES})
    for number, name in enumerate(chosen):
        deployable, (_, examples, path) = DEPLOYABLES[name], written(name)
        program, outputs = cpp_header.read_graph_file(path, examples, deployable.outputs, name)
        shapes = {key: tuple(tensor.shape[1:]) for key, tensor in deployable.inputs.items()}
        header = folder / f"{name}.hpp"
        function = cpp_header.Function("evaluate", program.lines, shapes, outputs)
        header.write_text(cpp_header.header_text(program, [function], name, {}))
        includes.append(f'#include "{header}"\n')
        run = f"[](const float* in, float* out) {{ {name}::evaluate<float>(in, out); }}"
        cases.append(f"    case {number}: return answer<{name}::inputs, {name}::outputs>({run});\n")
    source = "".join(includes) + PROGRAM + "".join(cases) + "  }\n  return 3;\n}\n"
    compile_source(source, folder / "all", find_compiler(), SANITIZED)
    return folder / "all", chosen


def run_sanitized(program: Path, number: int, rows) -> np.ndarray:
    data = np.concatenate([np.asarray(r.unsqueeze(-1).flatten(1), np.float32) for r in rows], 1).tobytes()
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, str(number)], input=data, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()[:2000]
    return np.frombuffer(done.stdout, np.float32).astype(np.float64)


@needs_compiler
@pytest.mark.timeout(1500)  # one compilation of many headers, which a loaded machine may take minutes for
def test_no_header_reads_outside_of_an_array(written, sanitized):
    program, chosen = sanitized
    for number, name in enumerate(chosen):
        deployable, (module, examples, _) = DEPLOYABLES[name], written(name)
        rows, broken = hard_rows(examples)
        typical = flat(compute_outputs(module, [tensor[:1] for tensor in examples]))[0]
        answer = run_sanitized(program, number, rows).reshape(len(broken), -1)
        check_rows(answer, broken, typical, max(deployable.tolerance, 1e-5), deployable.guarded)
        scale = 1e-30
        for count in (10_000, 7, 1, 0):
            states = random_states(deployable, count)
            wanted = flat(compute_outputs(module, states))
            found = run_sanitized(program, number, states).reshape(wanted.shape)
            scale = np.maximum(scale, np.abs(wanted).max(0, initial=0.0))
            assert (np.abs(found - wanted) <= max(deployable.tolerance, 1e-4) * scale).all(), name


@needs_compiler
def test_a_header_looks_nothing_up_outside_of_its_table_and_refuses_fast_math(tmp_path):
    export_header(table(), tmp_path / "table.hpp", states=100)
    source = f'#include "{tmp_path / "table.hpp"}"\n' + PROGRAM
    run = "[](const float* in, float* out) { table::evaluate<float>(in, out); }"
    source += f"    case 0: return answer<table::inputs, table::outputs>({run});\n  }}\n  return 3;\n}}\n"
    compile_source(source, tmp_path / "program", find_compiler(), SANITIZED)

    def exported(*rows):
        return torch.from_numpy(run_sanitized(tmp_path / "program", 0, rows).reshape(-1, 2)).unbind(1)

    check_table(exported)
    with pytest.raises(ExportError, match="compile without -ffast-math"):
        compile_source(source, tmp_path / "program", find_compiler(), ("-O1", "-ffast-math"))
