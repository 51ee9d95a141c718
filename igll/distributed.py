"""Several processes that train or evaluate one model; with one process, everything here does nothing.

One rule makes a loss of the whole batch out of losses of its parts: a process may return anything, as long as
the *mean over the processes* is the loss of the whole batch. Gradients are averaged after backward, and
:func:`batch_mean` hands gradients on as what it is, a sum over processes; so the averaged gradient is that of
the mean, whatever mix of own and common values a loss is made of. A plain mean over samples, of which every
process has equally many, fulfils the rule as it is.

Numbers for the host go through gloo, those of a GPU through NCCL, so that agreeing never waits for a GPU.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from igll.errors import (
    ElsewhereError,
    InputError,
    NumericsError,
    OutputError,
    ProcessEndedError,
    ProcessFailedError,
)
from igll.launch import launch

# A process that ended closes its connections, which the others notice at once. This is for one that is
# frozen or cut off, and longer than any work that one process does while the others wait.
TIMEOUT = timedelta(minutes=30)
_BUCKET = 8_000_000  # gradient values that are exchanged at once, 32 MB of float32
_DIMENSIONS = 8


@contextmanager
def joined() -> Iterator[None]:
    """Connects the processes that torchrun started, and parts them at the end.

    If the block fails, the group stays as it is: the others notice when this process ends, and a collective
    of a GPU that waits for an ended process could not be parted from.

    Raises:
        InputError: The environment asks for several processes and does not say where they meet.
        ProcessEndedError: Instead of an error that the user knows of already from another process; without a
            message.
    """
    if launch().size == 1:
        yield
        return
    # Optimisers load this module, and its functions take the group that there is then as a default: loaded
    # within the block, it keeps the group's threads alive, which abort a process that is shutting down.
    import_module("torch.distributed.nn.functional")
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    except ValueError as error:
        raise InputError(
            f"WORLD_SIZE={launch().size} in the environment, but the processes cannot find each other "
            f"({error}); start them with torchrun, or unset RANK and WORLD_SIZE"
        ) from None
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
        wait_for_all()
    except BaseException as error:
        # When one process ends, torchrun asks the others to, and they have something to say first.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not _tells(error, dist.PrefixStore("igll", store)):
            raise ProcessEndedError("", 2 if isinstance(error, InputError) else 1) from error
        raise
    dist.destroy_process_group()


def _tells(error: BaseException, store: dist.Store) -> bool:
    """Whether it is this process that tells the user: the first to fail, as the others fail of that."""
    if isinstance(error, (ProcessFailedError, ElsewhereError)):
        return False
    known = isinstance(error, (InputError, OutputError, NumericsError, ProcessEndedError, KeyboardInterrupt))
    try:
        first = store.add("failures", 1) == 1
    except RuntimeError:  # torchrun itself is gone
        first = True
    return first or not known


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0 on."""
    return dist.get_rank() if size() > 1 else 0


def is_writer() -> bool:
    """Whether this is the one process that writes files and messages."""
    return rank() == 0


def own_part(count: int) -> range:
    """Which of so many things, of which every process has a run, are this one's; runs follow the ranks."""
    return range(rank() * count // size(), (rank() + 1) * count // size())


def samples_per_process(batch_size: int) -> int:
    """How many samples of a batch each process takes.

    Raises:
        InputError: They cannot take equally many.
    """
    if batch_size % size():
        raise InputError(
            f"train.batch_size: {batch_size} is the batch of all processes together and does not divide into "
            f"{size()} equal parts; change it, or the number of processes"
        )
    return batch_size // size()


class _SumOverProcesses(torch.autograd.Function):
    """Sum of every process's tensor; each process's loss depends on all of them, so gradients add up too."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        """Add up."""
        return _add_up(value)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """Add up what every process's loss makes of this one's value."""
        return _add_up(gradient)


def batch_mean(value: Tensor) -> Tensor:
    """Mean over the processes of a value of each one's part of the batch: that of the whole batch.

    Differentiable, once. Every process has to call it, as often and in the same order.
    """
    if size() == 1:
        return value
    summed: Tensor = _SumOverProcesses.apply(value)
    return summed / size()


def average_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars of the parts of a batch as those of the whole, by one exchange."""
    if size() == 1 or not terms:
        return terms
    mean = batch_mean(torch.stack([term.detach().float() for term in terms.values()]))
    return dict(zip(terms, mean.unbind(), strict=True))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes, in few exchanges.

    By hand, as DistributedDataParallel wants one ``forward`` for every backward pass: here the generator is
    entered by another name and learns through the discriminator, which is frozen meanwhile.
    """
    if size() == 1:
        return
    for bucket in _buckets(_gradients_of_any(list(parameters))):
        mean_N = _add_up(torch.cat([gradient.reshape(-1) for gradient in bucket])) / size()
        for gradient, part_N in zip(bucket, mean_N.split([one.numel() for one in bucket]), strict=True):
            gradient.copy_(part_N.view(gradient.shape))


def _gradients_of_any(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Gradients that any process has, zero where this one's samples passed the parameter by.

    What holes reach decides that: attention is left out where no token is missing. Parameters that no sample
    reached are left without, so that the optimiser skips them as it would in one process.
    """
    reached = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    with _noticing_the_end():
        dist.all_reduce(reached, dist.ReduceOp.MAX)
    gradients = []
    for parameter, any_reached in zip(parameters, reached.tolist(), strict=True):
        if any_reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    return gradients


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.numel() for one in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@torch.no_grad()
def take_from_first(networks: Iterable[nn.Module | None]) -> None:
    """Give the networks the weights and buffers that they have in the first process."""
    if size() == 1:
        return
    for network in networks:
        for tensor in () if network is None else (*network.parameters(), *network.buffers()):
            copy = tensor.contiguous()
            with _noticing_the_end():
                dist.broadcast(copy, 0)
            tensor.copy_(copy)


def largest(value: int) -> int:
    """The largest of every process's number."""
    if size() == 1:
        return value
    found = torch.tensor(value)
    with _noticing_the_end():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def alike(values: Sequence[int]) -> bool:
    """Whether every process has the same numbers."""
    if size() == 1:
        return True
    bounds = torch.tensor([*values, *(-value for value in values)])
    with _noticing_the_end():
        dist.all_reduce(bounds, dist.ReduceOp.MAX)
    highest, negated_lowest = bounds.chunk(2)
    return bool((highest == -negated_lowest).all())


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    largest(0)


@contextmanager
def failing_together() -> Iterator[None]:
    """A block that each process runs for itself; if it fails in one, all leave it in the same place.

    Raises:
        ProcessFailedError: It failed in another process, which tells why.
    """
    try:
        yield
    except Exception:
        with suppress(ProcessEndedError):
            largest(1)
        raise
    if largest(0):
        raise ProcessFailedError("another process of this run failed")


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, those of the first first, on the device of this one's.

    Args:
        rows: (N, ...), the N of each process; a process without any may give (0,).
    """
    if size() == 1:
        return rows
    shape = torch.zeros(_DIMENSIONS, dtype=torch.int64)
    shape[: rows.dim()] = torch.tensor(rows.shape)
    shapes = [torch.empty_like(shape) for _ in range(size())]
    with _noticing_the_end():
        dist.all_gather(shapes, shape)
    counts = [int(other[0]) for other in shapes]
    row = [int(length) for length in torch.stack(shapes).amax(0)[1:] if length]
    padded = rows.new_zeros(max(counts), *row, device="cpu")
    padded[: len(rows)] = rows.reshape(len(rows), *row)
    found = [torch.empty_like(padded) for _ in range(size())]
    with _noticing_the_end():
        dist.all_gather(found, padded)
    return torch.cat([other[:count] for other, count in zip(found, counts, strict=True)]).to(rows.device)


def gather(value: Any) -> list[Any]:
    """What each process has, in their order; anything that JSON can hold."""
    if size() == 1:
        return [value]
    text = json.dumps(value).encode()
    letters = gather_rows(torch.frombuffer(bytearray(text), dtype=torch.uint8)).numpy().tobytes()
    lengths = gather_rows(torch.tensor([len(text)])).tolist()
    found, start = [], 0
    for length in lengths:
        found.append(json.loads(letters[start : start + length]))
        start += length
    return found


def _add_up(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    with _noticing_the_end():
        dist.all_reduce(total)
    return total


@contextmanager
def _noticing_the_end() -> Iterator[None]:
    """Says in our own words that another process is gone, of which torch has many."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessEndedError("another process of this run ended") from error
