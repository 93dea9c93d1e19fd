"""Tracks that no run has seen, and how far an answer for them is off: shared by the programs that measure tracks."""

from __future__ import annotations

import numpy as np
import torch

from thesis_surrogates.tracks.data import TracksData, generate
from thesis_surrogates.tracks.field import Field

OTHER_SEED = 1_000_003  # added to the seed of a dataset


def draw_fresh_tracks(config: TracksData, tracks: int, field: Field) -> tuple[torch.Tensor, np.ndarray]:
    """Tracks of a dataset's law with another seed: inputs [N, 7] float32 and target [N, 4] float64."""
    fresh = config.model_copy(update={"seed": config.seed + OTHER_SEED, "n_tracks": tracks})
    pieces = list(generate(fresh, field))
    return (
        torch.from_numpy(np.concatenate([piece["inputs"] for piece in pieces]).astype(np.float32)),
        np.concatenate([piece["target"] for piece in pieces]),
    )


def count_errors(answer: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Mean, median, p95 position error [mm] and mean slope error of states [N, 4]."""
    position, slope = np.hypot(*(answer - target)[:, :2].T), np.hypot(*(answer - target)[:, 2:].T)
    return {
        "position_mean_mm": float(position.mean()),
        "position_median_mm": float(np.median(position)),
        "position_p95_mm": float(np.quantile(position, 0.95)),
        "slope_mean": float(slope.mean()),
    }
