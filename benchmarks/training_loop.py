"""What the training loop costs beside a bare PyTorch loop: same model, data, batches and optimizer, one process.

    python benchmarks/training_loop.py [--rows 200000] [--batch 4096] [--repeats 5]

Prints the ratio (median over repeats, loops taken in turn) and writes outputs/benchmarks/training_loop.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from thesis_surrogates.core.config import TrainConfig
from thesis_surrogates.core.data import TensorSource
from thesis_surrogates.core.models import mlp
from thesis_surrogates.core.plan import mean_loss, supervised_plan
from thesis_surrogates.core.training import fit


def terms(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}


def bare(rows: dict[str, torch.Tensor], batch: int, hidden: int) -> float:
    """Samples per second of a loop with nothing in it but the work, one pass."""
    model = mlp([7, hidden, hidden, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    began = time.perf_counter()
    for index in torch.randperm(len(rows["x"])).split(batch):
        loss = (model(rows["x"][index]) - rows["y"][index]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return len(rows["x"]) / (time.perf_counter() - began)


def ours(rows: dict[str, torch.Tensor], batch: int, hidden: int) -> float:
    """Samples per second of `fit` in one epoch, its own figure (validation excluded, everything else included)."""
    train, speeds = TrainConfig(epochs=1, batch_size=batch), []
    few = {name: tensor[:8] for name, tensor in rows.items()}
    plan = supervised_plan(
        loss_terms=terms, source=TensorSource(rows, batch, seed=0), validate=mean_loss(terms, few), train=train
    )
    fit(
        mlp([7, hidden, hidden, 4]),
        plan,
        seed=0,
        train=train,
        callbacks=[lambda event: speeds.append(event.samples_per_second) if event.moment == "epoch_end" else None],
    )
    return speeds[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"x": torch.randn(options.rows, 7), "y": torch.randn(options.rows, 4)}
    result = {"rows": options.rows, "batch": options.batch, "repeats": options.repeats, "torch": torch.__version__}
    for hidden in (64, 128):
        bare(rows, options.batch, hidden), ours(rows, options.batch, hidden)
        pairs = [(ours(rows, options.batch, hidden), bare(rows, options.batch, hidden)) for _ in range(options.repeats)]
        ratio = statistics.median(a / b for a, b in pairs)
        result[f"{hidden}x{hidden}"] = {
            "ours_per_second": statistics.median(a for a, _ in pairs),
            "bare_per_second": statistics.median(b for _, b in pairs),
            "ratio": ratio,
        }
        print(
            f"[{hidden}, {hidden}]: {result[f'{hidden}x{hidden}']['ours_per_second']:,.0f} samples/s, "
            f"{ratio:.2f} of the bare loop"
        )
    path = Path("outputs/benchmarks/training_loop.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
