"""Make the golden vector of the C++ programs: a tiny track network in every format, and what it answers.

    python cpp/golden/make.py [--folder cpp/golden] [--all]

Writes golden.hpp and golden.csv (both kept in git); with --all also golden.onnx and golden.ts. The network is written
here and its weights are a formula, so that the vector changes with nothing but this file. Columns of golden.csv: the
seven inputs, then the four outputs in double precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from thesis_surrogates.core.export.cpp_header import export_header
from thesis_surrogates.core.export.deployable import Column, Deployable
from thesis_surrogates.core.export.onnx import export_onnx
from thesis_surrogates.core.export.torch_programs import export_torchscript

UNITS = {"mm": ("x", "y", "z0", "dz", "x_end", "y_end"), "1": ("tx", "ty", "tx_end", "ty_end"), "1/GeV": ("q_over_p",)}
STATE = ("x", "y", "tx", "ty", "q_over_p", "z0", "dz")
EXTRAPOLATED = ("x_end", "y_end", "tx_end", "ty_end")


def columns_of(names: tuple[str, ...]) -> tuple[Column, ...]:
    """The numbers of a row with their units."""
    return tuple(Column(name=name, unit=next(unit for unit, own in UNITS.items() if name in own)) for name in names)


class GoldenTrack(nn.Module):
    """Straight line plus a correction of the size of the bend: [B, 7] (x, y, tx, ty, q/p, z0, dz) to [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([170.0, 145.0, 0.087, 0.086, 0.13]))
        self.network = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
        with torch.no_grad():
            for k, parameter in enumerate(self.parameters()):
                place = torch.arange(parameter.numel(), dtype=torch.float64)
                parameter.copy_((0.5 * torch.sin(1.7 * place + k)).reshape(parameter.shape))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        dz = state[:, 6:7]
        kick = 0.299792458e-3 * state[:, 4:5] * dz
        correction = kick * (1 + 0.1 * self.network(state[:, :5] / self.scale))
        return torch.cat(
            [state[:, :2] + dz * state[:, 2:4] + 0.5 * dz * correction[:, :2], state[:, 2:4] + correction[:, 2:]], dim=1
        )


def golden_states(rows: int = 32) -> np.ndarray:
    """Inputs [rows, 7] on a regular spiral through phase space."""
    k = np.arange(rows)
    columns = [
        300 * np.sin(k),
        250 * np.cos(2 * k),
        0.15 * np.sin(3 * k),
        0.15 * np.cos(5 * k),
        0.3 * np.sin(0.7 * k),
        0 * k + 2665.0,
        0 * k + 5161.0,
    ]
    return np.stack(columns, axis=1).astype(np.float32).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--all", action="store_true", help="ONNX and TorchScript too")
    options = parser.parse_args()
    model, states = GoldenTrack(), golden_states()
    deployable = Deployable(
        module=model,
        inputs={"state": torch.from_numpy(states).float()},
        outputs=("extrapolated",),
        columns={"state": columns_of(STATE), "extrapolated": columns_of(EXTRAPOLATED)},
    )
    export_header(deployable, options.folder / "golden.hpp")
    if options.all:
        export_onnx(deployable, options.folder / "golden.onnx")
        export_torchscript(deployable, options.folder / "golden.ts")
    with torch.no_grad():
        answers = model.double()(torch.from_numpy(states)).numpy()
    table = np.concatenate([states, answers], axis=1)
    np.savetxt(
        options.folder / "golden.csv",
        table,
        fmt="%.12g",
        delimiter=",",
        header=",".join([*STATE, *EXTRAPOLATED]),
        comments="",
    )


if __name__ == "__main__":
    main()
