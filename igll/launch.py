"""Which of torchrun's processes this is; read from its environment variables, without loading torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from igll.errors import InputError


class Launch(NamedTuple):
    """This process among those that were started together.

    Attributes:
        rank: From 0 to below ``size``.
        size: Number of processes on all machines.
        local_rank: Number among those of this machine, which is also its GPU's.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launch() -> Launch:
    """What torchrun says of this process in RANK, WORLD_SIZE and LOCAL_RANK; without it, the only one.

    Raises:
        InputError: The variables make no sense.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise InputError(
            f"RANK={rank} and WORLD_SIZE={size} in the environment: RANK counts from 0 to below WORLD_SIZE, "
            "as torchrun sets them; unset them, or name the part of igll-infer with --shard"
        )
    local_rank = os.environ.get("LOCAL_RANK", "0")
    if not local_rank.isdecimal():
        raise InputError(f"LOCAL_RANK={local_rank} in the environment: no number; unset it, or use torchrun")
    return Launch(int(rank), int(size), int(local_rank))
