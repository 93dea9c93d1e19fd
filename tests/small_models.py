"""Small untrained models of all systems, to be exported; no parameter is zero, and tables of a field are filled."""

from __future__ import annotations

import torch

from thesis_surrogates.core.data import Tensors
from thesis_surrogates.core.export.deployable import Deployable
from thesis_surrogates.events.data import process_counts, to_tensors
from thesis_surrogates.events.generator import generate
from thesis_surrogates.running.registry import SYSTEMS, get_system
from thesis_surrogates.tracks.axis_tables import AxisField
from thesis_surrogates.tracks.field import DipoleField

# A network of the same kind that differs with the data: where the legs vary, it looks its field up in a table.
FURTHER = (("tracks", "kick", {"legs": "variable"}),)
LEFT_OUT = ("ae_identity", "ae_linear")  # of the three tokenizers of events, which differ little, one is enough


def small(system: str, name: str, **data: object) -> Deployable:
    """A small model."""
    record = get_system(system)
    kind = record.models[name]
    settings: dict[str, object] = (
        {"hidden": (16, 16)} if "hidden" in kind.model_fields else {"width": 16} if "width" in kind.model_fields else {}
    )
    gate = kind.model_fields.get("gate")
    if gate is not None and gate.default == "analytic":  # the graph of a crossing test has a test of its own
        settings["gate"] = "learned"
    torch.manual_seed(0)
    model = kind(**settings).build(record.data_config(**data))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    for part in model.modules():
        if isinstance(part, AxisField):
            part.fit(DipoleField())
    return record.deploy(model)


def every_deployable() -> dict[str, Deployable]:
    """All models of all systems by a name that C++ takes, too."""
    models = [(s, name, {}) for s in SYSTEMS for name in get_system(s).models if name not in LEFT_OUT]
    return {"_".join([s, name, *data.values()]): small(s, name, **data) for s, name, data in (*models, *FURTHER)}


def small_events(**sizes: int) -> dict[str, Tensors]:
    """Splits with so many collider events, half of them of the signal."""
    splits = {}
    for split, size in sizes.items():
        made = generate(0, split, process_counts(size, 0.5))
        splits[split] = to_tensors(made.particles, made.types, made.met, made.process)
    return splits
