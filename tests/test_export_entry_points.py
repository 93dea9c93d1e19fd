"""Exported files answer several questions, in any precision, and say what they are."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from small_models import small  # noqa: E402
from torch import nn  # noqa: E402

from thesis_surrogates.core.errors import ConfigError, DataError  # noqa: E402
from thesis_surrogates.core.export.cpp_header import (  # noqa: E402
    compile_source,
    export_header,
    find_compiler,
    row_program,
    run_rows,
)
from thesis_surrogates.core.export.deployable import (  # noqa: E402
    Column,
    Deployable,
    EntryPoint,
    all_entry_points,
    as_tuple,
    compute_outputs,
    random_states,
    with_domain,
)
from thesis_surrogates.core.export.onnx import compare_outputs, export_onnx, load_onnx  # noqa: E402
from thesis_surrogates.core.export.torch_programs import (  # noqa: E402
    CARD,
    export_pt2,
    export_torchscript,
    load_pt2,
    load_torchscript,
)
from thesis_surrogates.core.exported_surrogate import load_export  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


class Circumference(nn.Module):
    def forward(self, radius):
        return 2 * math.pi * radius * torch.ones(1, dtype=torch.float32, device="cpu")


class Area(nn.Module):
    def forward(self, radius):
        return math.pi * radius**2


def circle():
    radius = {"radius": torch.tensor([[1.0], [3.0]])}
    columns = {
        "radius": (Column(name="r", unit="mm", lowest=0.0, highest=9.0),),
        "area": (Column(name="A", unit="mm^2"),),
    }
    area = EntryPoint(module=Area(), inputs=radius, outputs=("area",), columns=columns)
    return Deployable(
        module=Circumference(),
        inputs=radius,
        outputs=("circumference",),
        columns=columns,
        entry_points={"area": area},
        origin={"system": "toys", "config_hash": "123abc", "commit": "unknown", "licence": "Apache-2.0"},
    )


def check_card(card):
    assert card["origin"]["config_hash"] == "123abc" and card["origin"]["licence"] == "Apache-2.0"
    assert card["tolerance"] == 1e-5
    radius = {"name": "r", "unit": "mm", "lowest": 0.0, "highest": 9.0}
    (entry, *_) = card["entry_points"].values()
    assert entry["inputs"]["radius"] == {"type": "float32", "shape": [1], "columns": [radius]}


def test_a_script_has_methods_any_precision_and_its_card(tmp_path):
    export_torchscript(circle(), tmp_path / "m.ts", states=200)
    extra = {CARD: ""}
    script = torch.jit.load(str(tmp_path / "m.ts"), _extra_files=extra)
    check_card(json.loads(extra[CARD]))
    assert json.loads((tmp_path / "m.ts.json").read_text())["card"] == json.loads(extra[CARD])
    radius = torch.tensor([[2.0], [math.nan]], dtype=torch.float64)
    assert script.double()(radius).dtype == script.area(radius).dtype == torch.float64
    assert script.area(radius)[0].item() == 4 * math.pi and script.area(radius)[1].isnan().all()
    code = "".join(part.code for part in script.modules())
    assert "cpu" not in code and "cuda" not in code


def test_a_graph_has_a_file_for_each_entry_point(tmp_path):
    parity = export_onnx(circle(), tmp_path / "m.onnx", states=200)
    assert {p.name for p in tmp_path.iterdir()} == {f"m{n}.onnx{e}" for n in ("", ".area") for e in ("", ".json")}
    for name, output in (("m.onnx", "circumference"), ("m.area.onnx", "area")):
        properties = {p.key: p.value for p in onnx.load(tmp_path / name).metadata_props}
        card = json.loads(properties["surrogate"])
        check_card(card)
        assert list(card["entry_points"]["forward"]["outputs"]) == [output]
    assert parity.card["entry_points"]["forward"]["outputs"]["circumference"]["columns"] == []
    (area,) = load_onnx(tmp_path / "m.area.onnx")(torch.tensor([[2.0]]))
    assert abs(area.item() - 4 * math.pi) < 1e-5


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")
def test_a_header_has_a_function_for_each_entry_point(tmp_path):
    import numpy as np

    report = export_header(circle(), tmp_path / "m.hpp", states=200)
    assert set(report.max_absolute_difference) == {"circumference", "area.area"}
    text = (tmp_path / "m.hpp").read_text()
    about = text.split('R"surrogate(')[1].split(')surrogate"')[0]
    check_card(json.loads(about))
    rows = np.array([[2.0], [np.inf]])
    functions = [("m::evaluate", ""), ("m::area", "area_")]
    compile_source(row_program(tmp_path / "m.hpp", functions, "double"), tmp_path / "m", find_compiler())
    assert run_rows(tmp_path / "m", rows, 1, function=1)[0] == pytest.approx(4 * math.pi)
    many = f"""#include "{tmp_path / "m.hpp"}"
    int main() {{
      const double in[] = {{1, 2, 3}};
      double out[] = {{0, 0, 0}};
      m::area<double>(in, out, 0);
      if (out[0] != 0) return 1;
      m::area<double>(in, out, 3);
      return out[2] > 28.27 && out[2] < 28.28 && m::area_inputs == 1 ? 0 : 2;
    }}
    """
    compile_source(many, tmp_path / "many", find_compiler())
    assert os.spawnv(os.P_WAIT, str(tmp_path / "many"), ["many"]) == 0


@pytest.mark.skipif("THESIS_SLOW" not in os.environ, reason="AOTInductor takes minutes: set THESIS_SLOW=1")
@pytest.mark.timeout(1800)
def test_a_package_holds_all_entry_points(tmp_path):
    threads = torch.get_num_threads()
    export_pt2(circle(), tmp_path / "m.pt2", states=200)
    runs = load_pt2(tmp_path / "m.pt2")
    assert set(runs) == {"forward", "area"} and torch.get_num_threads() == threads
    assert runs["area"](torch.tensor([[2.0]])).item() == pytest.approx(4 * math.pi)


def test_flavor_answers_all_questions_of_its_users_from_one_script(tmp_path):
    deployable = small("flavor", "ymatrix")
    export_torchscript(deployable, tmp_path / "m.ts", states=200)
    script = load_torchscript(tmp_path / "m.ts").double()
    questions = ["predict_all", "predict_stability", "predict_WhiskyTHC", "is_physical", "X_from_F4", "F4_from_y"]
    assert list(deployable.entry_points) == [*questions, "convert_y_to_2flavor"]
    for name, entry in all_entry_points(deployable).items():
        states = random_states(entry, 7)
        wanted = as_tuple(compute_outputs(entry.module, states))
        found = as_tuple(compute_outputs(getattr(script, name), [tensor.double() for tensor in states]))
        for right, given in zip(wanted, found, strict=True):
            assert given.dtype == torch.float64
            assert torch.allclose(given.float(), right, rtol=1e-3, atol=1e-5 * float(right.abs().max()))


class Clipped(nn.Module):
    """Right in the middle of the domain, and wrong in its corners."""

    def forward(self, x):
        return torch.where(x.isfinite(), x.clamp(-1.5, 1.5), x)


def test_the_corners_of_the_domain_are_compared():
    columns = {"x": tuple(Column(name=f"x{k}", unit="mm") for k in range(3))}
    inputs = {"x": torch.zeros(2, 3)}
    entry = Deployable(module=nn.Identity(), inputs=inputs, outputs=("y",), columns=columns)
    assert compare_outputs(entry, entry.module, Clipped(), 500)[0] == 0.0  # the examples are all that is known
    ranged = with_domain(entry, {f"x{k}": (-2.0, 2.0) for k in range(3)})
    assert compare_outputs(ranged, entry.module, Clipped(), 500)[0] == 0.25
    (states,) = random_states(ranged, 400)
    assert {tuple(row) for row in states[::4].tolist()} == {
        (a, b, c) for a in (-2.0, 2.0) for b in (-2.0, 2.0) for c in (-2.0, 2.0)
    }


def test_the_threads_of_the_caller_are_left_alone():
    """No program of the folder cpp, and nothing of the exports, sets how many threads OpenMP takes."""
    sources = [*(ROOT / "cpp").rglob("*.cpp"), *(ROOT / "cpp").rglob("*.hpp")]
    sources += (ROOT / "thesis_surrogates" / "core" / "export").glob("*.py")
    for path in sources:
        assert not any(word in path.read_text() for word in ("omp_set", "set_num_threads", "OMP_NUM")), path.name


def test_a_loaded_file_predicts_in_its_own_units_only(tmp_path):
    export_onnx(circle(), tmp_path / "m.onnx", states=200)
    export_torchscript(circle(), tmp_path / "m.ts", states=200)
    for path, point in (("m.onnx", "forward"), ("m.area.onnx", "forward"), ("m.ts", "forward"), ("m.ts", "area")):
        loaded = load_export(tmp_path / path, point)
        assert loaded.card["origin"]["config_hash"] == "123abc" and loaded.inputs.unit.tolist() == ["mm"]
        found = loaded.predict({"r": [1.0, 3.0]}, units={"r": "mm"})
        wanted = [math.pi, 9 * math.pi] if "area" in path + point else [2 * math.pi, 6 * math.pi]
        assert found.ravel().tolist() == pytest.approx(wanted)
        with pytest.raises(ConfigError, match="r is given in cm, the model takes mm"):
            loaded.predict({"r": [1.0]}, units={"r": "cm"})
        with pytest.raises(ConfigError, match="no column 'R'"):
            loaded.predict({"r": [1.0]}, units={"R": "mm"})
    with pytest.raises(ConfigError, match="no entry point 'volume'; it has forward, area"):
        load_export(tmp_path / "m.ts", "volume")


def test_a_file_exported_before_keeps_loading(tmp_path):
    """A trace without a description, and a report that has none either."""
    torch.jit.save(torch.jit.trace(Area(), (torch.ones(2, 1),)), str(tmp_path / "old.ts"))
    with pytest.raises(DataError, match="says nothing of its inputs"):
        load_export(tmp_path / "old.ts")
    report = {
        "format": "torchscript",
        "inputs": {"radius": "float32[batch, 1]"},
        "outputs": ["area"],
        "tolerance": 1e-6,
    }
    (tmp_path / "old.ts.json").write_text(json.dumps(report))
    assert load_export(tmp_path / "old.ts").predict([[2.0]]).item() == pytest.approx(4 * math.pi)
