"""A flavor network as a file: all its questions, any precision, and cells that are none; in TorchScript and ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thesis_surrogates.core.export.deployable import all_entry_points
from thesis_surrogates.core.export.onnx import export_onnx, load_onnx
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.flavor.models import build
from thesis_surrogates.flavor.networks.deployed import deploy, example_cells, nsm1
from thesis_surrogates.flavor.networks.gates import is_physical

pytestmark = pytest.mark.timeout(1500)  # graphs of all questions are recorded: minutes on a loaded machine

NEW = {"name": "ymatrix", "features": "contrast", "exchange": "layers", "gate": "analytic", "physical": True}


@pytest.fixture(scope="module")
def network():
    return build(NEW, seed=2)


def broken_cells():
    cells = np.concatenate([nsm1()] * 5).astype(np.float32)
    cells[1, 3, 0, 0], cells[2, 1, 1, 1], cells[3, 3, 1, 1], cells[4, 0, 0, 0] = 0, np.nan, -1e30, 2e33
    return torch.from_numpy(cells)


def check_broken(answer, cells):
    final, rate, stability = answer
    assert final[1:].numpy().tobytes() == cells[1:].numpy().tobytes()
    assert (rate[1:] == 0).all() and (stability[1:] == 1).all() and rate[0] > 0 and stability[0] < 0.5


def test_the_examples_show_every_case(network):
    cells = torch.from_numpy(example_cells())
    length, density = cells[:, :3].norm(dim=1), cells[:, 3]
    assert is_physical(cells.float()).all()
    assert ((density > 0).flatten(1).sum(1) == 1).any() and (length == 0).flatten(1).all(1).any()
    assert (length / density - 1).abs().flatten(1).amax(1).lt(1e-12).any()
    stability = network.predict_stability(cells)
    assert 0.2 < float((stability > 0.5).double().mean()) < 0.8


def test_torchscript_answers_all_questions_in_any_precision(network, tmp_path):
    export_torchscript(deploy(network), tmp_path / "m.ts", states=300)
    script, cells = torch.jit.load(tmp_path / "m.ts"), broken_cells()
    assert len(list(script.parameters())) + len(list(script.buffers())) > 0, "nothing is frozen"
    check_broken(script.predict_all(cells), cells)
    assert script.is_physical(cells).tolist() == [1, 0, 0, 0, 0]
    double = script.double()(cells.double())
    assert double[0].dtype == torch.float64
    assert all(callable(getattr(script, name)) for name in all_entry_points(deploy(network)))


def test_onnx_has_the_gate_and_leaves_broken_cells(network, tmp_path):
    deployable = deploy(network)
    alone = type(deployable)(**{**vars(deployable), "entry_points": {}})
    export_onnx(alone, tmp_path / "m.onnx", states=300)
    cells = broken_cells()
    check_broken(load_onnx(tmp_path / "m.onnx")(cells), cells)
