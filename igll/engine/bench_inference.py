"""Latency, memory and distance from the roof of every network, in rounds that take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from igll.config import ModelConfig
from igll.engine.bench_cases import Case, autocast, count_multiply_adds, fresh_generator, make_inputs
from igll.engine.bench_memory import cuda_growth, process_growth
from igll.engine.bench_roof import (
    Convolution,
    Roof,
    noise_for,
    record_convolutions,
    record_layers,
    roof_multiply_adds,
)
from igll.engine.bench_timing import (
    MEASURED,
    Guarded,
    Pace,
    Recorded,
    Row,
    TooLongError,
    clock,
    is_out_of_memory,
    skip,
)
from igll.engine.cost import MultiplyAdds
from igll.models import InpaintingNetwork


class Settings(NamedTuple):
    """How inference is measured.

    Attributes:
        device: Where.
        rounds: Timed passes of each case.
        warmup: Passes before them, at least one.
        limit: Seconds that all passes of one case may take.
        memory: Whether to measure memory.
    """

    device: torch.device
    rounds: int
    warmup: int
    limit: float
    memory: bool


class Counts:
    """Multiply-adds of one image, counted once for each network, size and hole."""

    def __init__(self, configs: dict[str, ModelConfig]) -> None:
        self._configs = configs
        self._known: dict[tuple[str, int, int], MultiplyAdds] = {}

    def of(self, case: Case) -> MultiplyAdds:
        """Those of a case, one image."""
        key = (case.model, case.size, case.hole)
        if key not in self._known:
            self._known[key] = count_multiply_adds(self._configs[case.model], case.size, case.hole)
        return self._known[key]

    def rows(self) -> list[Row]:
        """All that were counted."""
        return [
            {"model": model, "size": size, "hole": hole, **found._asdict()}
            for (model, size, hole), found in self._known.items()
        ]


class Runner:
    """One case on its way: prepared, then timed round by round.

    Args:
        case: The case.
        generator: Its network, on the device.
        settings: How to measure.
    """

    def __init__(self, case: Case, generator: InpaintingNetwork, settings: Settings) -> None:
        self.case, self.settings, self._generator = case, settings, generator
        self._inputs = make_inputs(generator, case, settings.device)
        self._network: Callable[..., Any] = generator
        self._graph: Recorded | None = None
        self.convolutions: list[Convolution] = []
        self.layers: list[Convolution] = []
        self.roof: Callable[[], None] | None = None
        self.layer_roof: Callable[[], None] | None = None
        self.compile_seconds: float | None = None
        self.first_seconds = 0.0
        self.seconds: list[float] = []
        self.roof_seconds: list[float] = []
        self.layer_seconds: list[float] = []

    @torch.no_grad()
    def forward(self) -> None:
        """One pass."""
        with autocast(self.case, self.settings.device):
            self._network(*self._inputs)

    def _timed(self) -> None:
        """What a round times."""
        if self._graph is None:
            self.forward()
        else:
            self._graph()

    def replay_of(self, roof: Roof) -> Callable[[], None]:
        """What a roof is timed by, after a first replay: a CUDA graph where the pass is one."""
        roof.replay()
        return Recorded(roof.replay, self.settings.device) if self._graph is not None else roof.replay

    def prepare(self) -> None:
        """Record the convolutions in a first, eager pass, compile or capture if asked to, and warm up.

        Raises:
            TooLongError: The first pass shows that all passes would exceed the limit.
        """
        device, passes = self.settings.device, self.settings.warmup + self.settings.rounds
        self.first_seconds = clock(
            device, lambda: self.convolutions.extend(record_convolutions(self.forward))
        )
        with torch.no_grad():
            self.layers = record_layers(self._generator, self._inputs, self.convolutions)
        if self.first_seconds * passes > self.settings.limit:
            raise TooLongError(
                f"the first pass took {self.first_seconds:.1f} s, {passes} would exceed the limit of "
                f"{self.settings.limit:g} s (--limit)"
            )
        if self.case.mode == "compiled":
            self._network = torch.compile(self._generator, dynamic=False)
            self.compile_seconds = clock(device, self.forward)
        if self.case.mode in ("graph", "compiled graph"):
            self._graph = self._record()
        for _ in range(self.settings.warmup - 1):
            self._timed()

    def _record(self) -> Recorded:
        """A CUDA graph of a pass that is given the hole's lists, compiled before if asked to."""
        device, fill = self.settings.device, self._generator.fill
        layout = self._generator.layout(self._inputs.mask_B1HW, whole_frame=False)
        given = None if layout is None else layout.to(device)
        if self.case.mode == "compiled graph":
            fill = torch.compile(fill, dynamic=False)
        work = partial(_pass, partial(fill, *self._inputs, given), self.case, device)
        if self.case.mode == "compiled graph":
            self.compile_seconds = clock(device, work)
        return Recorded(work, device)

    def round(self) -> None:
        """Time one pass, one replay of its convolutions and one of the network's layers."""
        assert self.roof is not None and self.layer_roof is not None  # noqa: S101  (narrows for the type checker)
        self.seconds.append(clock(self.settings.device, self._timed))
        self.roof_seconds.append(clock(self.settings.device, self.roof))
        self.layer_seconds.append(
            self.roof_seconds[-1]
            if self.layer_roof is self.roof
            else clock(self.settings.device, self.layer_roof)
        )

    def numbers(self) -> Row:
        """What was measured."""
        median, roof = statistics.median(self.seconds), statistics.median(self.roof_seconds)
        layers = statistics.median(self.layer_seconds)
        return {
            "seconds": self.seconds,
            "seconds_median": median,
            "seconds_min": min(self.seconds),
            "roof_seconds": self.roof_seconds,
            "roof_median": roof,
            "ratio": median / roof if roof else None,
            "layer_seconds": self.layer_seconds,
            "layer_median": layers,
            "layer_ratio": median / layers if layers else None,
            "roof_convolutions": len(self.convolutions),
            "roof_multiply_adds": roof_multiply_adds(self.convolutions),
            "layer_multiply_adds": roof_multiply_adds(self.layers),
            "compile_seconds": self.compile_seconds,
        }


@torch.no_grad()
def _pass(fill: Callable[[], object], case: Case, device: torch.device) -> None:
    """A pass that is given the hole's lists; of no runner, which would hold its graph in a circle."""
    with autocast(case, device):
        fill()


class InferenceBench:
    """Measures groups of cases that differ in the network alone.

    Args:
        configs: Networks by name.
        settings: How.
    """

    def __init__(self, configs: dict[str, ModelConfig], settings: Settings) -> None:
        self._configs, self._settings = configs, settings
        self.generators = {name: fresh_generator(config) for name, config in configs.items()}
        self.counts = Counts(configs)
        self._pace = Pace()

    def measure(self, group: Sequence[Case], bar: tqdm[Any]) -> Iterator[Row]:
        """Measure one group; yields a row per case when all are done.

        Args:
            group: Cases of the same size, batch, hole, mode and precision.
            bar: Shows which case is being worked on; moves on by one for each.
        """
        if self._settings.device.type == "cuda":
            torch.cuda.empty_cache()
        # What was compiled for other shapes would count towards the limit on recompiling.
        torch.compiler.reset()
        rows = {case: self._row(case) for case in group}
        runners = []
        for case, row in rows.items():
            bar.set_description(case.title)
            runner = self._prepare(case, row)
            if runner is None:
                bar.update()
            else:
                runners.append(runner)
        self._give_roofs(runners, rows)
        for _ in range(self._settings.rounds):
            for runner in runners:
                if rows[runner.case]["status"] == MEASURED:
                    bar.set_description(runner.case.title)
                    with Guarded(rows[runner.case]):
                        runner.round()
        for runner in runners:
            row = rows[runner.case]
            if row["status"] == MEASURED:
                row |= runner.numbers()
                self._pace.note(runner.case, row["multiply_adds"], row["seconds_median"] + row["roof_median"])
            bar.update()
        yield from rows.values()

    def _row(self, case: Case) -> Row:
        """A row before measuring: the case, and its multiply-adds, all images of the batch together."""
        counted = self.counts.of(case)
        return {
            **case._asdict(),
            "status": MEASURED,
            "reason": "",
            "multiply_adds": counted.true * case.batch,
            "convolution_multiply_adds": counted.convolutions * case.batch,
            "memory_growth_bytes": None,
            "memory_reason": "",
        }

    def _prepare(self, case: Case, row: Row) -> Runner | None:
        """A runner that is warm; None, with the reason in the row, if the case is not to be measured."""
        settings = self._settings
        foreseen = self._pace.foresee(case, row["multiply_adds"])
        passes = settings.warmup + settings.rounds
        if foreseen is not None and foreseen * passes > settings.limit:
            skip(
                row,
                f"{passes} passes and roofs would take about {foreseen * passes:.0f} s at the rate of a "
                f"smaller case, more than {settings.limit:g} s (--limit)",
            )
            return None
        on_cpu = settings.device.type == "cpu"
        if on_cpu and settings.memory and not self._measure_process(case, row):
            return None
        runner = None
        try:
            with Guarded(row):
                runner = Runner(case, self.generators[case.model].to(settings.device), settings)
                runner.prepare()
                if not on_cpu and settings.memory:
                    row["memory_growth_bytes"] = cuda_growth(settings.device, runner.forward)
        except TooLongError as error:
            skip(row, str(error))
        if not settings.memory:
            row["memory_reason"] = "not asked for (--no-memory)"
        if runner is not None and runner.first_seconds:
            self._pace.note(case, row["multiply_adds"], runner.first_seconds)
        return runner if row["status"] == MEASURED else None

    def _measure_process(self, case: Case, row: Row) -> bool:
        """Memory on the CPU; False, with the reason in the row, if the pass cannot be done at all."""
        if case.mode == "compiled":
            row["memory_reason"] = "of eager passes alone: compiling takes memory of the same process"
            return True
        found = process_growth(self._configs[case.model], case, self._settings.limit)
        row["memory_growth_bytes"], row["memory_reason"] = found.growth_bytes, found.reason
        if found.fatal:
            skip(row, found.reason)
        return not found.fatal

    def _give_roofs(self, runners: Sequence[Runner], rows: dict[Case, Row]) -> None:
        """Noise for all replays of the group: the inputs' is shared, so that it is held once."""
        calls = [call for runner in runners for call in (*runner.convolutions, *runner.layers)]
        guards = [Guarded(rows[runner.case]) for runner in runners]
        try:
            noise = noise_for(calls, self._settings.device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            for runner in runners:
                skip(rows[runner.case], "out of memory for the roof's noise")
            return
        for runner, guard in zip(runners, guards, strict=True):
            with guard:
                runner.roof = runner.replay_of(Roof(runner.convolutions, noise, self._settings.device))
                runner.layer_roof = runner.roof
                if runner.layers is not runner.convolutions:
                    runner.layer_roof = runner.replay_of(Roof(runner.layers, noise, self._settings.device))
