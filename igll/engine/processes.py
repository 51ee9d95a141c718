"""What the processes of one training have to agree on before it starts, and what is said when one is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igll.config import Config
from igll.distributed import alike, samples_per_process, take_from_first
from igll.engine.state import TrainState
from igll.errors import InputError, ProcessEndedError, ProcessFailedError


def check_processes(config: Config) -> None:
    """Refuse what several processes cannot do as one would.

    Raises:
        InputError: Naming the setting.
    """
    each = samples_per_process(config.train.batch_size)
    if each < config.train.batch_size and config.discriminator.norm == "batch":
        raise InputError(
            "discriminator.norm: batch takes its statistics of what one process has; use spectral or none, "
            "or one process"
        )


def start_alike(state: TrainState, last: Path) -> None:
    """Let all processes go on from one point, with the first one's weights.

    Raises:
        InputError: Not all of them found the checkpoint.
    """
    if not alike([state.step]):
        raise InputError(
            f"{last}: not seen by every process; --out has to be a folder that all machines share"
        )
    take_from_first([state.generator, state.ema, state.discriminator])


@contextmanager
def naming_checkpoint(last: Path) -> Iterator[None]:
    """Says how to go on when another process has ended without a word."""
    try:
        yield
    except ProcessFailedError:
        raise
    except ProcessEndedError as error:
        saved = f"last checkpoint: {last}; go on with --resume" if last.exists() else "no checkpoint yet"
        raise ProcessEndedError(f"{error}; {saved}") from error
