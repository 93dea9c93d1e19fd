"""Every model of every system becomes a header that compiles and agrees with PyTorch."""

from __future__ import annotations

import json
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from thesis_surrogates.core.export.cpp_header import export_header, find_compiler  # noqa: E402
from thesis_surrogates.core.export.onnx import Deployable  # noqa: E402
from thesis_surrogates.running.registry import SYSTEMS, get_system  # noqa: E402

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")


def every_model():
    """(system, model) of all systems; of the three tokenizers of events, which differ little, one."""
    return [
        (system, name)
        for system in SYSTEMS
        for name in get_system(system).models
        if name not in ("ae_identity", "ae_linear")
    ]


def small(system: str, name: str) -> Deployable:
    """A small model with parameters that are not zero anywhere."""
    record = get_system(system)
    kind = record.models[name]
    settings = (
        {"hidden": (16, 16)} if "hidden" in kind.model_fields else {"width": 16} if "width" in kind.model_fields else {}
    )
    torch.manual_seed(0)
    model = kind(**settings).build(record.data_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return record.deploy(model)


@needs_compiler
@pytest.mark.parametrize(("system", "name"), every_model())
def test_every_model_becomes_a_header_that_agrees(tmp_path, system, name):
    deployable = small(system, name)
    report = export_header(deployable, tmp_path / f"{name}.hpp", states=300)
    assert report.compiled and report.max_relative_difference <= max(deployable.tolerance, 1e-5) and 1 in report.batches
    written = json.loads((tmp_path / f"{name}.hpp.json").read_text())
    assert written["constant_bytes"] == report.constant_bytes and written["sha256"] == report.sha256
    text = (tmp_path / f"{name}.hpp").read_text()
    assert set(re.findall(r"#include (\S+)", text)) == {"<cmath>", "<cstddef>", "<cstdint>", "<cstring>"}
    assert "new " not in text.replace("a new", "") and "static " not in text and str(tmp_path) not in text


def test_the_command_line_exports_a_header_and_minds_the_limit(smoke_runs, tmp_path, capsys):
    from thesis_surrogates.cli import main

    run = str(smoke_runs("tracks").path)
    with pytest.raises(SystemExit) as done:
        main(["export", run, "--format", "header", "--path", str(tmp_path / "track.hpp")])
    assert (
        not done.value.code
        and "B of constants" in capsys.readouterr().out
        and "namespace track {" in (tmp_path / "track.hpp").read_text()
    )
    for arguments, message in (
        (["--format", "header", "--limit-bytes", "100"], "more than the limit of 100 B"),
        (["--limit-bytes", "100"], "counts the constants of a header"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["export", run, *arguments])
        assert refused.value.code == 2 and message in capsys.readouterr().err
