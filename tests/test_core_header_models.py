"""A header of a trained model: its report, what it includes, and the command that writes it."""

from __future__ import annotations

import json
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from small_models import small  # noqa: E402

from thesis_surrogates.core.export.cpp_header import export_header, find_compiler  # noqa: E402

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler found")


@needs_compiler
def test_a_model_becomes_a_header_that_agrees(tmp_path):
    """All other models: test_export_rows.py."""
    report = export_header(small("tracks", "residual"), tmp_path / "m.hpp", states=300)
    assert report.compiled and report.max_relative_difference <= 1e-5 and 1 in report.batches
    written = json.loads((tmp_path / "m.hpp.json").read_text())
    assert written["constant_bytes"] == report.constant_bytes and written["sha256"] == report.sha256
    text = (tmp_path / "m.hpp").read_text()
    assert set(re.findall(r"#include (\S+)", text)) == {"<cmath>", "<cstddef>", "<cstdint>", "<cstring>"}
    assert (
        "new " not in text.replace("a new", "")
        and not re.search(r"static (?!constexpr)", text)
        and str(tmp_path) not in text
    )


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
