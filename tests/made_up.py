"""What a training loop would tell a recorder, for tests that make up runs."""

from types import SimpleNamespace

from thesis_surrogates.core.facts import Run, read_run
from thesis_surrogates.core.recorder import open_run


def epoch_end(epoch, train, validation, seconds):
    """The event at the end of an epoch with these losses."""
    return SimpleNamespace(
        moment="epoch_end",
        epoch=epoch,
        step=epoch,
        phase="main",
        seconds=seconds,
        samples_per_second=1.0,
        metrics={"train": {"loss": train}, "validation": {"loss": validation}},
        details={},
    )


def made_up_run(folder, name, seed, drawn, error, fingerprint, system="toy", baseline=4.0, **data) -> Run:
    """A run of the model seed `seed` on data of the seed `drawn`, with one baseline."""
    config = {"system": system, "name": name, "question": "", "seed": seed, "train": {"epochs": 1}}
    config |= {"model": {"name": "mlp"}, "data": {"seed": drawn, **data}}
    with open_run(folder / f"{name}-{seed}-{drawn}", config, provenance={"data_fingerprint": fingerprint}) as recorder:
        known = {"contender": "RK4", "kind": "baseline", "parameters": 0, "cost_us": 1.0, "error_mm": baseline}
        own = {"contender": "mlp", "kind": "surrogate", "parameters": 4, "cost_us": 1.0, "error_mm": error}
        recorder.event("evaluated", {"rows": [known, own]})
    return read_run(recorder.files.path)
