"""ONNX and TorchScript files agree with torch, for several kinds of modules, or do not exist."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from torch import nn  # noqa: E402

from thesis_surrogates.core.export.deployable import (  # noqa: E402
    Deployable,
    EntryPoint,
    ExportError,
    random_states,
)
from thesis_surrogates.core.export.onnx import (  # noqa: E402
    export_onnx,
    load_onnx,
)
from thesis_surrogates.core.export.torch_programs import (  # noqa: E402
    export_torchscript,
)


class Scaled(nn.Module):
    """Normalisation inside, dropout and batch norm that must be off."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([100.0, -50.0, 0.0]))
        self.register_buffer("std", torch.tensor([300.0, 250.0, 0.15]))
        self.net = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64), nn.SiLU(), nn.Dropout(0.5), nn.Linear(64, 2))

    def forward(self, x):
        return 1e3 * self.net((x - self.mean) / self.std)


class Masked(nn.Module):
    """Ragged sequences: a masked mean and a codebook look-up."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 8)
        self.codes = nn.Parameter(torch.randn(16, 8))

    def forward(self, x, mask):
        z = self.encode(x)
        index = (z[..., None, :] - self.codes).square().sum(-1).argmin(-1)
        weight = mask.to(x.dtype)[..., None]
        return (z * weight).sum(1) / weight.sum(1).clamp_min(1.0), index


class Orbit(nn.Module):
    """Ten midpoint steps of a learned field."""

    def __init__(self):
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, state):
        states = [state]
        for _ in range(10):
            k1 = self.field(state)
            k2 = self.field(state + 0.05 * k1)
            state = state + 0.1 * k2
            states.append(state)
        return torch.stack(states, 1)


def scaled():
    return Deployable(
        module=Scaled(), inputs={"x": torch.randn(64, 3) * torch.tensor([300.0, 250.0, 0.15])}, outputs=("y",)
    )


def masked():
    lengths = torch.arange(32) % 6 + 1
    inputs = {"x": torch.randn(32, 6, 4), "mask": torch.arange(6)[None] < lengths[:, None]}
    return Deployable(module=Masked(), inputs=inputs, outputs=("pooled", "index"))


def orbit():
    return Deployable(module=Orbit(), inputs={"state": torch.randn(16, 4)}, outputs=("states",))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [scaled, masked, orbit])
def test_onnx_parity_on_ten_thousand_states(tmp_path, make, capfd, recwarn):
    deployable = make()
    recwarn.clear()
    parity = export_onnx(deployable, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert parity.max_relative_difference <= 1e-5 and parity.states == 10_000 and {1, 2, 7} <= set(parity.batches)
    assert sum(parity.batches) == 10_000
    report = json.loads((tmp_path / "m.onnx.json").read_text())
    assert report["max_relative_difference"] == parity.max_relative_difference and report["outputs"] == list(
        deployable.outputs
    )
    model = onnx.load(tmp_path / "m.onnx")
    assert max(entry.version for entry in model.opset_import if entry.domain == "") >= 17
    assert [value.name for value in model.graph.input] == list(deployable.inputs)
    assert [value.name for value in model.graph.output] == list(deployable.outputs)
    assert all(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.json"]
    data = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in data and b"site-packages" not in data
    if make is scaled:
        with torch.no_grad():
            ones = 1e3 * deployable.module.eval().net(torch.ones(1, 3))
        assert torch.allclose(load_onnx(tmp_path / "m.onnx")(torch.tensor([[400.0, 200.0, 0.15]]))[0], ones, rtol=1e-4)


@pytest.mark.parametrize("make", [scaled, masked, orbit])
def test_torchscript_parity(tmp_path, make):
    parity = export_torchscript(make(), tmp_path / "m.pt")
    assert parity.max_relative_difference <= 1e-6 and parity.format == "torchscript"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "m.pt.json"]


def test_the_module_itself_is_left_alone(tmp_path):
    deployable = scaled()
    deployable.module.train()
    before = {name: value.clone() for name, value in deployable.module.state_dict().items()}
    export_torchscript(deployable, tmp_path / "m.pt", states=100)
    assert deployable.module.training
    assert all(torch.equal(value, before[name]) for name, value in deployable.module.state_dict().items())


class Noisy(nn.Module):
    """Never the same twice."""

    def forward(self, x):
        return x + torch.rand_like(x)


def test_wrong_numbers_leave_no_file_and_keep_the_old_one(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"an older export")
    bad = Deployable(module=Noisy(), inputs={"x": torch.rand(8, 2)}, outputs=("y",))
    with pytest.raises(ExportError, match="differs from torch"):
        export_torchscript(bad, tmp_path / "m.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"] and (
        tmp_path / "m.pt"
    ).read_bytes() == b"an older export"
    with pytest.raises(ExportError):
        export_onnx(
            Deployable(module=NotFinite(), inputs={"x": torch.rand(8, 2)}, outputs=("y",)), tmp_path / "new.onnx"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


class Branching(nn.Module):
    def forward(self, x):
        return 2 * x if bool(x.mean() > 0) else -x


@pytest.mark.parametrize("export", [export_onnx, export_torchscript])
def test_a_branch_on_values_is_refused(tmp_path, export):
    bad = Deployable(module=Branching(), inputs={"x": torch.linspace(-1, 1.5, 50)[:, None]}, outputs=("y",))
    with pytest.raises(ExportError):
        export(bad, tmp_path / "m")
    assert not list(tmp_path.iterdir())


class NotFinite(nn.Module):
    def forward(self, x):
        return torch.log(x - 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"x": torch.rand(1, 3)}}, "at least 2 rows"),
        ({"inputs": {"x": torch.tensor(1.0)}}, "at least 2 rows"),
        ({"outputs": ("y", "z")}, "2 are named"),
        ({"module": NotFinite()}, "not finite"),
    ],
)
def test_bad_deployables(tmp_path, change, message):
    good = {"module": Scaled(), "inputs": {"x": torch.rand(8, 3)}, "outputs": ("y",)}
    with pytest.raises(ExportError, match=message):
        export_torchscript(Deployable(**(good | change)), tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_old_opset_is_refused(tmp_path):
    with pytest.raises(ExportError, match="17"):
        export_onnx(scaled(), tmp_path / "m.onnx", opset=16)


def test_random_states_are_reproducible_and_inside():
    inputs = {"a": torch.rand(9, 2, 3), "b": torch.arange(9), "c": torch.rand(9) > 0.5}
    entry = EntryPoint(module=nn.Identity(), inputs=inputs, outputs=("y",))
    first, second = random_states(entry, 200, seed=3), random_states(entry, 200, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (
        first[0].shape == (200, 2, 3) and first[0].min() >= 0 and first[0].max() <= 1 and first[1].dtype == torch.int64
    )
