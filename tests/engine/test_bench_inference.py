"""Cases: what is skipped and why, what fails, what is counted, and memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tqdm import tqdm

from igll.config import ModelConfig
from igll.engine import bench_inference, bench_memory
from igll.engine.bench_cases import Case, count_multiply_adds, fresh_generator, make_inputs
from igll.engine.bench_inference import InferenceBench, Settings
from igll.engine.bench_memory import MemoryFound, process_growth
from igll.engine.bench_roof import (
    Convolution,
    Roof,
    TensorForm,
    noise_for,
    record_convolutions,
    record_layers,
    roof_multiply_adds,
)
from igll.engine.bench_timing import Pace
from igll.engine.cost import multiply_adds
from igll.models import Generator, products

CPU = torch.device("cpu")
TINY: dict[str, dict[str, Any]] = {
    "igll": {"width": 4},
    "dmfn": {"width": 16, "blocks": [1]},
    "hifill": {"width": 4},
    "han": {"width": 16, "blocks": [1, 1, 1, 1]},
    "hint": {"width": 8, "blocks": [1, 1, 1, 1]},
}


def config(name: str) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, **TINY[name]})


def measured(cases: list[Case], **changes: Any) -> list[dict]:
    settings = Settings(CPU, rounds=1, warmup=1, limit=1000.0, memory=False)._replace(**changes)
    bench = InferenceBench({case.model: config(case.model) for case in cases}, settings)
    rows = []
    for case in cases:
        rows += bench.measure([case], tqdm(disable=True))
    return rows


@pytest.mark.parametrize("name", TINY)
def test_replayed_convolutions_cost_what_the_pass_spends_on_convolutions(name: str):
    generator, case = fresh_generator(config(name)), Case(name, 64, 2, 25)
    inputs = make_inputs(generator, case, CPU)
    with torch.no_grad():
        calls = record_convolutions(lambda: generator(*inputs))
    counted = count_multiply_adds(config(name), 64, 25)
    assert roof_multiply_adds(calls) == 2 * counted.convolutions > 0


def test_products_that_are_computed_as_convolutions_are_no_part_of_the_roof(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(products, "_LEAST_VALUES", 0)
    generator = fresh_generator(config("igll"))
    inputs = make_inputs(generator, Case("igll", 64, 1, 25), CPU)
    seen = []
    with torch.no_grad():
        for least in (2**62, 0):
            monkeypatch.setattr(products, "_LEAST", least)
            seen.append(record_convolutions(lambda: generator(*inputs)))
            counted = multiply_adds(generator, 32, 64)
    assert seen[0] == seen[1] and counted == count_multiply_adds(config("igll"), 64, 25)
    assert roof_multiply_adds(seen[0]) == counted.convolutions


@pytest.mark.parametrize("name", TINY)
def test_counting_without_computing_gives_the_same_numbers(name: str):
    assert count_multiply_adds(config(name), 128, 25) == multiply_adds(fresh_generator(config(name)), 64, 128)


@pytest.mark.parametrize("hole", [10, 77])
def test_layers_are_those_of_the_papers_table_over_the_whole_frame(hole: int):
    """25.566 G multiply-adds at 256 × 256, counted from the table of layers by hand."""
    generator = fresh_generator(ModelConfig())
    inputs = make_inputs(generator, Case("igll", 256, 1, hole), CPU)
    layers = record_layers(generator, inputs, [])
    assert roof_multiply_adds(layers) == 25_566_380_032
    assert all(call.input.stride[1] == 1 for call in layers), "as in a pass"
    half = record_layers(generator, inputs, [layers[0].like(torch.bfloat16)])
    assert {(call.input.dtype, call.weight.dtype) for call in half} == {(torch.bfloat16, torch.bfloat16)}
    peer = fresh_generator(config("hifill"))
    assert record_layers(peer, inputs, layers) is layers


def test_layers_of_a_network_that_fills_by_example_are_recorded_without_its_search():
    settings = {"width": 4, "structure_prior": "none", "exemplar": True}
    generator = fresh_generator(ModelConfig.model_validate(settings))
    inputs = make_inputs(generator, Case("igll", 64, 1, 25), CPU)
    assert any(call.weight.shape[:2] == (4, 7) for call in record_layers(generator, inputs, []))


def test_convolutions_are_recorded_with_all_that_decides_their_speed():
    layer = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    up = torch.nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False)
    image = torch.zeros(1, 4, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        calls = record_convolutions(lambda: up(layer(image)))
    first, second = calls
    assert first.input == TensorForm((1, 4, 8, 8), (256, 1, 32, 4), torch.float32)
    assert first.weight.shape == (6, 2, 3, 3) and first.bias is not None
    assert first.rest == ((2, 2), (1, 1), (1, 1), False, (0, 0), 2)
    assert second.bias is None and second.rest[3] is True
    roof = Roof(calls, noise_for(calls, CPU), CPU)
    again = record_convolutions(roof.replay)
    assert again == calls
    # 6 × 4 × 4 outputs of 2 × 9 products; then 6 × 4 × 4 inputs times 2 × 4 weights.
    assert roof_multiply_adds(calls) == 96 * 18 + 96 * 8


def test_inputs_of_a_replay_share_one_stretch_of_noise():
    small = TensorForm((1, 2, 4, 4), (32, 16, 4, 1), torch.float32)
    large = TensorForm((1, 2, 8, 8), (128, 64, 8, 1), torch.float32)
    weight, rest = (
        TensorForm((2, 2, 1, 1), (2, 1, 1, 1), torch.float32),
        ((1, 1), (0, 0), (1, 1), False, (0, 0), 1),
    )
    calls = [Convolution(form, weight, None, rest) for form in (small, large)]
    noise = noise_for(calls, CPU)
    assert {dtype: tensor.numel() for dtype, tensor in noise.items()} == {torch.float32: 128}
    assert noise[torch.float32].abs().max() <= 1 and noise[torch.float32].std() > 0.4


def test_the_hole_is_the_papers_square_scaled_with_the_image():
    for size, hole, start, side in ((256, 25, 32, 128), (512, 10, 64, 160), (64, 77, 8, 56)):
        generator = fresh_generator(config("igll"))
        mask_B1HW = make_inputs(generator, Case("igll", size, 2, hole), CPU).mask_B1HW
        expected = torch.zeros(2, 1, size, size)
        expected[..., start : start + side, start : start + side] = 1
        assert torch.equal(mask_B1HW, expected)


def test_fresh_networks_are_equal_and_leave_random_numbers_alone():
    state = torch.get_rng_state()
    first, second = (fresh_generator(config("igll")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_pace_foresees_in_proportion_to_the_largest_case_so_far():
    pace, small, large = Pace(), Case("igll", 64, 1, 25), Case("igll", 128, 1, 25)
    assert pace.foresee(small, 10) is None
    pace.note(large, 400, 8.0)
    pace.note(small, 100, 1.0)
    assert pace.foresee(large, 800) == 16.0
    assert pace.foresee(large._replace(mode="compiled"), 800) is None


def test_what_would_take_too_long_is_skipped_by_the_rate_of_a_smaller_case(monkeypatch: pytest.MonkeyPatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))  # whatever is timed takes 1 s
    cases = [Case("igll", 64, 1, 25), Case("igll", 64, 8, 25), Case("igll", 128, 8, 25)]
    first, second, third = measured(cases, limit=20.0)
    assert first["status"] == "measured" and first["seconds_median"] == 1.0
    # A pass and its roof took 2 s, so eight images take 16 s, twice with the warm-up.
    assert (
        second["status"] == "skipped" and "about 32 s" in second["reason"] and "--limit" in second["reason"]
    )
    assert third["status"] == "skipped"
    assert second["multiply_adds"] == 8 * first["multiply_adds"]


def test_a_first_pass_that_takes_too_long_ends_the_case():
    (row,) = measured([Case("igll", 64, 1, 25)], limit=1e-6)
    assert row["status"] == "skipped" and row["reason"].startswith("the first pass took")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("you tried to allocate memory")],
)
def test_no_memory_left_skips_the_case_and_the_next_goes_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    forward = bench_inference.Runner.forward

    def failing(self):
        if self.case.batch == 2:
            raise error
        forward(self)

    monkeypatch.setattr(bench_inference.Runner, "forward", failing)
    rows = measured([Case("igll", 64, batch, 25) for batch in (1, 2, 3)])
    assert [row["status"] for row in rows] == ["measured", "skipped", "measured"]
    assert rows[1]["reason"].startswith("out of memory") and "memory" in rows[1]["reason"]


def test_a_network_that_fails_is_named_and_costs_no_other_its_row(monkeypatch: pytest.MonkeyPatch):
    forward = bench_inference.Runner.forward

    def failing(self):
        if self.case.model == "igll":
            raise RuntimeError("expected the same dtype\nmore")
        forward(self)

    monkeypatch.setattr(bench_inference.Runner, "forward", failing)
    igll, hifill = measured([Case("igll", 64, 1, 25), Case("hifill", 64, 1, 25)])
    assert (igll["status"], igll["reason"]) == ("n/a", "RuntimeError: expected the same dtype")
    assert hifill["status"] == "measured"


def test_a_network_that_does_not_compile_is_not_available_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    def failing(*_: Any, **__: Any):
        raise ValueError("no compiler\nmore")

    monkeypatch.setattr(torch, "compile", failing)
    (row,) = measured([Case("igll", 64, 1, 25, "compiled")])
    assert (row["status"], row["reason"]) == ("n/a", "torch.compile: ValueError: no compiler")


def test_a_compiled_network_is_what_is_timed(monkeypatch: pytest.MonkeyPatch):
    passes = []
    monkeypatch.setattr(
        torch, "compile", lambda network, dynamic: lambda *inputs: passes.append(network(*inputs))
    )
    (row,) = measured([Case("igll", 64, 1, 25, "compiled")], rounds=3, warmup=2)
    assert row["status"] == "measured" and row["compile_seconds"] > 0
    assert len(passes) == 1 + 1 + 3  # compiling, warm-up, rounds


@pytest.mark.parametrize("mode", ["graph", "compiled graph"])
def test_a_graph_is_of_a_pass_that_is_given_its_lists_and_of_the_roofs(
    monkeypatch: pytest.MonkeyPatch, mode: str
):
    """On a CPU what a graph would record is called instead."""
    recorded, waited, compiled = [], [], []

    def record(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
        recorded.append([])
        return lambda place=recorded[-1]: place.append(work())

    layout = Generator.layout
    monkeypatch.setattr(bench_inference, "Recorded", record)
    monkeypatch.setattr(Generator, "layout", lambda *of, **how: waited.append(of) or layout(*of, **how))
    monkeypatch.setattr(
        torch, "compile", lambda fill, dynamic: lambda *inputs: compiled.append(fill(*inputs))
    )
    (row,) = measured([Case("igll", 64, 1, 25, mode)], rounds=3, warmup=2)
    assert row["status"] == "measured" and row["layer_ratio"] > 0
    # Compiling is one pass, that which a graph records and those of the rounds the others.
    assert len(compiled) == (1 + 1 + 3 if mode == "compiled graph" else 0)
    assert (row["compile_seconds"] is not None) == (mode == "compiled graph")
    assert [len(times) for times in recorded] == [1 + 3, 3, 3]
    # Counting, the layers' list, the first pass and the graph's: no round works lists out.
    assert len(waited) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="peak resident memory is read from /proc")
def test_memory_is_that_of_one_pass_in_a_process_of_its_own():
    found = process_growth(config("igll"), Case("igll", 512, 1, 10), 100.0)
    # Several maps of 4 channels, 512 × 512 and 4 bytes at once, but no attention matrix.
    one_map = 4 * 512 * 512 * 4
    assert found.reason == "" and found.growth_bytes is not None
    assert 2 * one_map < found.growth_bytes < 100 * one_map


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (MemoryFound(123), "measured"),
        (MemoryFound(None, "memory: strange"), "measured"),
        (MemoryFound(None, "out of memory: killed", True), "skipped"),
    ],
)
def test_a_pass_that_dies_in_a_process_of_its_own_is_not_tried_here(
    found: MemoryFound, status: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench_inference, "process_growth", lambda *_: found)
    (row,) = measured([Case("igll", 64, 1, 25)], memory=True)
    assert row["status"] == status and row["memory_growth_bytes"] == found.growth_bytes
    assert row["memory_reason"] == found.reason
    assert row["reason"] == (found.reason if found.fatal else "")


@pytest.mark.parametrize(
    ("code", "words", "fatal", "limit"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory", True, 60.0),
        ("raise MemoryError", "out of memory", True, 60.0),
        ("raise ValueError('strange')", "ValueError: strange", False, 60.0),
        ("import time; time.sleep(60)", "did not end within", True, 0.3),
    ],
)
def test_how_the_process_ended_is_said(
    code: str, words: str, fatal: bool, limit: float, monkeypatch: pytest.MonkeyPatch
):
    run = bench_memory.subprocess.run
    monkeypatch.setattr(bench_memory, "_START", 0.0)
    monkeypatch.setattr(
        bench_memory.subprocess,
        "run",
        lambda command, **keywords: run([sys.executable, "-c", code], **keywords),
    )
    found = process_growth(config("igll"), Case("igll", 64, 1, 25), limit)
    assert found.growth_bytes is None and words in found.reason and found.fatal == fatal
