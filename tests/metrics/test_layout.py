"""Memory layout and pieces of a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igll.compat import prepare_torchvision
from igll.metrics import image
from igll.metrics.layout import for_convolutions, pieces, place


def test_a_cpu_measures_one_by_one_and_other_devices_whole_batches():
    assert list(pieces(3, torch.device("cpu"))) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(pieces(3, torch.device("cuda"))) == [slice(0, 3)]
    assert list(pieces(0, torch.device("cpu"))) == list(pieces(0, torch.device("cuda"))) == []


def test_the_layout_is_another_and_the_values_are_the_same():
    images = torch.rand(2, 3, 5, 7)
    laid_out = for_convolutions(images)
    assert laid_out.is_contiguous(memory_format=torch.channels_last) and torch.equal(laid_out, images)
    network = place(nn.Conv2d(3, 4, 3), "cpu")
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    elsewhere = images.to("meta")
    assert for_convolutions(elsewhere) is elsewhere


@pytest.mark.parametrize("name", ["structural_similarity", "multiscale_structural_similarity"])
def test_similarities_are_those_of_the_plain_layout(name: str):
    prepare_torchvision()
    from torchmetrics.functional import image as reference

    prediction, target = (
        torch.rand(2, 3, 180, 190, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    expected = getattr(reference, f"{name}_index_measure")(
        prediction, target, data_range=1.0, reduction="none"
    )
    ours = image.ssim if name == "structural_similarity" else image.ms_ssim
    assert ours(prediction, target).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
