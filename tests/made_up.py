"""What a training loop would tell a recorder, for tests that make up runs."""

from types import SimpleNamespace


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
