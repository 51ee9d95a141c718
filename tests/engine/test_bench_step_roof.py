"""A step's convolutions, recorded and replayed, against what is known of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from igll.engine.bench_step_roof import StepRoof, record_step
from igll.engine.bench_timing import clock

CPU = torch.device("cpu")


def test_forward_and_backward_are_recorded_and_replayed_multiply_by_multiply():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ELU(), nn.Conv2d(8, 4, 5, 2, 2), nn.Flatten(), nn.Linear(400, 2)
    )
    image_BCHW = torch.rand(2, 3, 22, 22).to(memory_format=torch.channels_last)
    calls = record_step(lambda: network(image_BCHW).sum().backward())
    assert [call.operator._schema.name for call in calls] == ["aten::convolution"] * 2 + [
        "aten::convolution_backward"
    ] * 2
    assert calls[0].arguments[0].shape == (2, 3, 22, 22)
    assert calls[0].arguments[0].stride == image_BCHW.stride()
    # The image needs no gradient: its convolution's backward is replayed without one too.
    assert [call.arguments[-1][0] for call in calls[2:]] == [True, False]

    with FlopCounterMode(display=False) as of_step:
        network[:3](image_BCHW).sum().backward()
    roof = StepRoof(calls, CPU)
    with FlopCounterMode(display=False) as of_replay:
        roof.replay()
    assert of_replay.get_total_flops() == of_step.get_total_flops() > 0
    assert clock(CPU, roof.replay) > 0
