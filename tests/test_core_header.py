"""Headers: every operation agrees with ONNX's own reference, the audit counts, and what cannot be exported is
refused.
"""

from __future__ import annotations

import copy
import ctypes
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import parser  # noqa: E402
from torch import nn  # noqa: E402

from thesis_surrogates.core.export import cpp_header as header_module  # noqa: E402
from thesis_surrogates.core.export.cpp_graph import translate_graph  # noqa: E402
from thesis_surrogates.core.export.cpp_header import CONSTANT_MEMORY_BYTES, compile_source, export_header, find_compiler  # noqa: E402
from thesis_surrogates.core.export.cpp_program import scatter_tensor  # noqa: E402
from thesis_surrogates.core.export.deployable import (  # noqa: E402
    Deployable,
    ExportError,
)
from thesis_surrogates.running.registry import get_system  # noqa: E402

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")


ELEMENT = [
    "Abs",
    "Neg",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Tanh",
    "Sigmoid",
    "Relu",
    "Softplus",
    "LeakyRelu",
    "Elu",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Softmax",
    "LogSoftmax",
]
BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]
REDUCE = [
    "ReduceSum",
    "ReduceMean",
    "ReduceProd",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMin",
    "ReduceLogSumExp",
]
OTHER = [
    "r = ArgMax<axis = 1, keepdims = 0> (x)",
    "r = ArgMin<axis = 1> (x)",
    "i = ArgMax<axis = 1> (x)  r = Gather (table, i)",
    "r = Clip (x, low, high)",
    "r = Clip (x, , high)",
    "b = Greater (x, low)  n = Not (b)  r = Where (n, x, low)",
    "a = Greater (x, low)  b = Less (x, high)  c = And (a, b)  d = Or (c, a)  r = Xor (c, d)",
    "r = Cast<to = 7> (x)",
    "m = MatMul (x, wide)  i = Cast<to = 7> (m)  r = Div (i, three)",
    "b = Cast<to = 9> (x)  r = Cast<to = 1> (b)",
    "r = IsNaN (x)",
    "t = Transpose<perm = [1, 0]> (x)  r = MatMul (x, t)",
    "s = Slice (x, one, three, one)  t = Transpose<perm = [1, 0]> (s)  r = Concat<axis = 0> (t, t)",
    "a, b = Split<axis = 1, num_outputs = 2> (x)  r = Sub (b, a)",
    "r = Pow (x, three_f)",
    "r = Sum (x, x, low)",
    "r = Gemm<transB = 1> (x, table, bias)",
    "r = MatMul (x, wide)",
    "y = Unsqueeze (x, one)  m = Expand (y, shape)  r = MatMul (m, wide)",
    "i = ArgMax<axis = 1> (x)  r = Gather<axis = 1> (table, i)",
    "i = ArgMin<axis = 1> (x)  j = ArgMax<axis = 1> (y)  k = Concat<axis = 1> (i, j)  r = GatherND (table, k)",
    "i = ArgMax<axis = 1> (x)  y1 = Unsqueeze (x, one)  r = GatherND<batch_dims = 1> (x, i)",
    "e = Mul (x, low)  c = Concat<axis = 1> (e, x)  r = ReduceMax (c, one)",
    "t = Transpose<perm = [1, 0]> (x)  r = Gemm (t, row, tall)",
    "i = ArgMax<axis = 1> (x)  r = ScatterElements<axis = 1> (x, one2, low2)",
]
GRAPHS = (
    [f"r = {op} (x)" for op in ELEMENT]
    + [f"r = {op} (x, y)" for op in BINARY]
    + [f"r = {op} (x, one)" for op in REDUCE]
    + OTHER
)
CONSTANTS = """<float low = {0.25}, float high = {0.7}, float three_f = {3.0}, int64[1] one = {1}, int64[1] three = {3},
  int64[3] shape = {1, 2, 4}, int64[1, 1] one2 = {1}, float[1, 1] low2 = {0.25},
  float[1, 9] row = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[4, 1] tall = {1, -1, 0.5, 2},
  float[4, 4] table = {1, 2, 3, 4, -1, 0.5, 2, 1, 3, 3, 1, -2, 0.1, 0.2, 0.3, 0.4}, float[4] bias = {1, -1, 0.5, 2},
  float[4, 9] wide = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, -5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, -7, 8, 9, 1, 2, 3,
    4, 5, 6, 7, 8, -9}>"""


def one_graph(body: str) -> onnx.ModelProto:
    """A graph of x, y [N, 4] to r, in ONNX's text form."""
    return parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 18]> test (float[N, 4] x, float[N, 4] y) => (r)
        {CONSTANTS} {{ {body} }}"""
    )


@needs_compiler
def test_every_operation_agrees_with_onnx_itself(tmp_path):
    """All graphs in one library (one compilation), each against ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    x, y = np.array([[0.1, 0.3, 0.35, 0.9]], np.float32), np.array([[0.1, 0.5, 0.35, 0.2]], np.float32)
    functions, wanted = [], []
    for k, body in enumerate(GRAPHS):
        program, (result,) = translate_graph(one_graph(body), {"x": (1, 4), "y": (1, 4)}, "test")
        scatter_tensor(program, result, "out")
        lines = "\n  ".join(program.lines)
        functions.append(
            f"namespace g{k} {{ using T = double; namespace detail {{ using namespace ::detail;\n"
            f"{''.join(program.declarations)}}}\n"
            f'extern "C" void g{k}(const double* in, double* out) {{ using namespace g{k}::detail;\n  {lines}\n}} }}\n'
        )
        wanted.append(np.asarray(ReferenceEvaluator(one_graph(body)).run(None, {"x": x, "y": y})[0], np.float64))
    source = (
        f"#include <cmath>\n#include <cstdint>\n#include <cstring>\n"
        f"namespace detail {{ {header_module.PREAMBLE} {header_module.FUNCTIONS} }}\n" + "".join(functions)
    )
    compile_source(source, tmp_path / "all.so", find_compiler(), ("-O0", "-shared", "-fPIC"))
    library, given, wrong = ctypes.CDLL(str(tmp_path / "all.so")), np.concatenate([x, y], axis=1).astype(np.float64), []
    for k, (body, want) in enumerate(zip(GRAPHS, wanted, strict=True)):
        out = np.full(want.size, np.nan)
        getattr(library, f"g{k}")(ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(out.ctypes.data))
        if not np.allclose(out, want.ravel(), rtol=3e-6, atol=1e-6):
            wrong.append((body, out, want.ravel()))
    assert not wrong, wrong


@needs_compiler
@pytest.mark.parametrize("name", ["exponential", "tanh", "sigmoid"])
def test_own_functions_are_exact_to_single_precision(tmp_path, name):
    source = (
        f"#include <cmath>\n#include <cstdint>\n#include <cstring>\n{header_module.FUNCTIONS}\n"
        f'extern "C" void f(const float* x, float* y, int n) {{ for (int i = 0; i < n; ++i) y[i] = {name}(x[i]); }}'
    )
    compile_source(source, tmp_path / "f.so", find_compiler(), ("-O2", "-shared", "-fPIC"))
    x = np.concatenate([np.linspace(-80, 80, 400_001), np.linspace(-1e-3, 1e-3, 10_001)]).astype(np.float32)
    y = np.empty_like(x)
    ctypes.CDLL(str(tmp_path / "f.so")).f(
        ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int(len(x))
    )
    exact = {"exponential": np.exp, "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[name](
        x.astype(np.float64)
    )
    relative = np.abs(y - exact) / np.maximum(np.abs(exact), 1e-37)
    assert relative.max() < 3e-7


class Plain(nn.Module):
    """An ordinary network."""

    def __init__(self, sizes, batch_norm=False):
        super().__init__()
        layers = []
        for a, b in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if batch_norm else []), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
        if batch_norm:
            self.net.train()(torch.randn(64, sizes[0]) * 2 + 1)
            self.net.eval()

    def forward(self, x):
        return self.net(x)


def plain(sizes, batch_norm=False):
    torch.manual_seed(0)
    return Deployable(module=Plain(sizes, batch_norm), inputs={"x": torch.randn(32, sizes[0])}, outputs=("y",))


@needs_compiler
def test_batch_norm_and_narrow_layers(tmp_path):
    assert (
        export_header(plain((3, 12, 5, 1), batch_norm=True), tmp_path / "m.hpp", states=500).max_relative_difference
        < 1e-5
    )


@needs_compiler
@pytest.mark.parametrize(("hidden", "bytes_"), [((64, 64), 19_472), ((96, 96), 41_488), ((112, 112), 55_568)])
def test_memory_audit_counts_what_was_written(tmp_path, hidden, bytes_):
    report = export_header(plain((6, *hidden, 4)), tmp_path / "m.hpp", states=50, limit_bytes=CONSTANT_MEMORY_BYTES)
    assert report.parameter_bytes == bytes_ and report.constant_bytes == bytes_ + 4 * 6  # a typical row
    numbers = sum(int(n) for n in re.findall(r"constexpr float \w+\[(\d+)\]", (tmp_path / "m.hpp").read_text()))
    assert 4 * numbers == report.constant_bytes


def test_memory_audit_refuses_the_rk_pinn_of_96(tmp_path):
    record = get_system("tracks")
    model = record.models["rk_pinn"](hidden=(96, 96)).build(record.data_config())
    assert 4 * sum(p.numel() for p in model.parameters()) == 159_440
    with pytest.raises(ExportError, match=r"needs 1\d\d,\d\d\d B of constants, more than the limit of 65,536 B"):
        export_header(record.deploy(model), tmp_path / "m.hpp", states=50, limit_bytes=CONSTANT_MEMORY_BYTES)
    assert not list(tmp_path.iterdir())


class Odd(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


def test_an_operation_without_translation_is_named_with_the_model(tmp_path):
    odd = Deployable(module=Odd(), inputs={"x": torch.randn(8, 3)}, outputs=("y",))
    with pytest.raises(ExportError, match="Odd: the operation CumSum"):
        export_header(odd, tmp_path / "m.hpp", states=50)
    assert not list(tmp_path.iterdir())


# Nodes with an input that is computed from the state where a constant is needed, and how the message names it.
COMPUTED = {
    "m = ReduceMax<keepdims = 0> (y)  r = Clip (x, m, high)": r"Clip \(node r\).* its input min \(m\) is computed",
    "m = ReduceMax<keepdims = 0> (y)  r = Clip (x, low, m)": r"Clip \(node r\).* its input max \(m\) is computed",
    "v = Squeeze (y)  r = BatchNormalization (x, v, bias, bias, bias)": r"BatchNormalization .* input scale \(v\)",
    "v = Squeeze (y)  r = BatchNormalization (x, bias, bias, bias, v)": r"BatchNormalization .* input input_var \(v\)",
    "i = ArgMax<axis = 1, keepdims = 0> (x)  r = ReduceSum (x, i)": r"ReduceSum .* its input axes \(i\)",
    "i = ArgMax<axis = 1, keepdims = 0> (x)  r = ReduceL2 (x, i)": r"ReduceL2 .* its input axes \(i\)",
    "c = Cast<to = 7> (x)  i = Squeeze (c)  r = Reshape (y, i)": r"Reshape .* its input shape \(i\)",
    "c = Cast<to = 7> (x)  i = Squeeze (c)  r = Expand (y, i)": r"Expand .* its input shape \(i\)",
    "c = Cast<to = 7> (x)  i = Squeeze (c)  r = Tile (y, i)": r"Tile .* its input repeats \(i\)",
    "i = ArgMax<axis = 1, keepdims = 0> (x)  r = Slice (y, i, three, one)": r"Slice .* its input starts \(i\)",
    "i = ArgMax<axis = 1, keepdims = 0> (x)  r = Slice (y, one, three, i)": r"Slice .* its input axes \(i\)",
    "i = ArgMax<axis = 1, keepdims = 0> (x)  r = Unsqueeze (y, i)": r"Unsqueeze .* its input axes \(i\)",
    "c = Cast<to = 9> (x)  i = Squeeze (c)  r = Compress<axis = 1> (y, i)": r"Compress .* its input condition \(i\)",
    "i = ArgMax<axis = 1> (x)  r = GatherElements<axis = 1> (y, i)": r"GatherElements .* its input indices \(i\)",
    "i = ArgMax<axis = 1> (x)  r = ScatterElements<axis = 1> (y, i, low2)": r"ScatterElements .* input indices \(i\)",
    'r = ScatterElements<axis = 1, reduction = "add"> (y, one2, low2)': r"ScatterElements .* reduction 'add'",
    "r = Gemm<alpha = 2.0> (x, table)": r"Gemm \(node r\).* alpha 2 ",
}


@pytest.mark.parametrize("body", COMPUTED)
def test_an_input_that_must_be_a_constant_is_named(body):
    with pytest.raises(ExportError, match=rf"^test: the operation {COMPUTED[body]}.*export as onnx, or add it to"):
        translate_graph(one_graph(body), {"x": (1, 4), "y": (1, 4)}, "test")


def test_without_a_compiler_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(header_module, "find_compiler", lambda: None)
    report = export_header(plain((3, 8, 2)), tmp_path / "m.hpp", states=100)
    assert (
        not report.compiled and report.versions["compiler"] == "none: not compiled" and (tmp_path / "m.hpp").is_file()
    )


def test_names_that_are_no_cpp_names(tmp_path):
    with pytest.raises(ExportError, match="must be C"):
        export_header(plain((3, 8, 2)), tmp_path / "9 lives.hpp")


@needs_compiler
def test_a_header_that_disagrees_is_not_written(tmp_path, monkeypatch):
    wrong = header_module.FUNCTIONS.replace("T(1) + exponential(-x)", "T(1.001) + exponential(-x)")
    monkeypatch.setattr(header_module, "FUNCTIONS", wrong)
    with pytest.raises(ExportError, match="differs from torch"):
        export_header(plain((3, 8, 2)), tmp_path / "m.hpp", states=100)
    assert not list(tmp_path.iterdir())


class Curved(nn.Module):
    """Functions that lanes compute in their own way, choices, and places that are known."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 21), nn.Linear(21, 5)

    def forward(self, x):
        h = self.first(x)
        h = torch.cat([torch.tanh(h[:, :5]), torch.asinh(h[:, 5:10]), torch.nn.functional.softplus(h[:, 10:])], 1)
        y = self.second(h).clamp(-0.5, 2.0)
        y = torch.where(y > 0.1, torch.log1p(y.abs()), torch.expm1(y) / (1 + y.square()).sqrt())
        return torch.log(torch.exp(y).sum(1, keepdim=True)) - y.amax(1, keepdim=True)


@needs_compiler
@pytest.mark.parametrize(("kind", "name"), [(np.float32, "float"), (np.float64, "double")])
def test_a_row_of_a_batch_gets_its_own_answer_wherever_it_stands(tmp_path, kind, name):
    torch.manual_seed(3)
    module, x = Curved().eval(), torch.randn(37, 3, generator=torch.Generator().manual_seed(1))
    deployable = Deployable(module=module, inputs={"x": x}, outputs=("y",))
    export_header(deployable, tmp_path / "m.hpp", states=100)
    door = f'#include "{tmp_path / "m.hpp"}"\nextern "C" void rows(const {name}* in, {name}* out, std::size_t n) '
    source = f"{door}{{ m::evaluate<{name}>(in, out, n); }}\n"
    compile_source(
        source, tmp_path / "m.so", find_compiler(), ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    )
    library, given = ctypes.CDLL(str(tmp_path / "m.so")), x.numpy().astype(kind).copy()

    def ask(rows):
        found = np.full((len(rows) + 1, 1), -7, kind)
        library.rows(
            *(ctypes.c_void_p(a.ctypes.data) for a in (np.ascontiguousarray(rows), found)), ctypes.c_size_t(len(rows))
        )
        assert found[-1] == -7
        return found[:-1]

    with torch.no_grad():
        wanted = copy.deepcopy(module).double()(x.double()).numpy()
    given[5, 1] = np.nan
    whole = ask(given)
    others = np.arange(37) != 5
    assert np.isnan(whole[5]) and np.abs(whole - wanted)[others].max() < (3e-6 if kind == np.float32 else 1e-6)
    for first, last in ((0, 1), (3, 10), (15, 17), (30, 37), (4, 4)):
        assert ask(given[first:last]).tobytes() == whole[first:last].tobytes()


@needs_compiler
def test_two_headers_of_one_name_live_in_one_process(tmp_path):
    """Tables in a header have process-wide symbols; those of another network must not be taken for them."""
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        deployable = Deployable(module=Plain((3, 8, 2)), inputs={"x": torch.randn(32, 3)}, outputs=("y",))
        export_header(deployable, folder / "m.hpp", states=100)
        call = 'extern "C" void row(const float* in, float* out) { m::evaluate(in, out); }'
        door = f'#include "{folder / "m.hpp"}"\n{call}\n'
        compile_source(door, folder / "m.so", find_compiler(), ("-O0", "-shared", "-fPIC"))
        given, found = np.ones(3, np.float32), np.empty(2, np.float32)
        ctypes.CDLL(str(folder / "m.so")).row(*(ctypes.c_void_p(a.ctypes.data) for a in (given, found)))
        with torch.no_grad():
            wanted = deployable.module(torch.ones(1, 3))[0].numpy()
        answers.append(np.abs(found - wanted).max())
    assert max(answers) < 1e-5
