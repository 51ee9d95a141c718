"""The whole way on a CUDA device, where there is one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import igll
from igll.engine.evaluate import evaluate
from igll.engine.train import train
from igll.models.attention import GlobalAttention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.parametrize("amp", [True, False])
def test_train_resume_evaluate_and_fill(small, tmp_path: Path, amp: bool):
    config = small(device="cuda", train={"amp": amp, "max_steps": 2}, data={"workers": 1})
    assert train(config, tmp_path / "run") == 0
    longer = small(device="cuda", train={"amp": amp, "max_steps": 4}, data={"workers": 1})
    assert train(longer, tmp_path / "run", resume=True) == 0
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.pt")
    methods = evaluate(longer, checkpoint, tmp_path / "eval")["methods"]
    assert math.isfinite(methods["IGLL"]["psnr_hole"])
    image = np.random.default_rng(0).integers(0, 256, (45, 50, 3), dtype=np.uint8)
    hole = np.zeros((45, 50), dtype=bool)
    hole[10:30, 5:40] = True
    filled = igll.load(checkpoint, device="cuda").inpaint(image, hole)
    assert (filled[~hole] == image[~hole]).all()


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("amp", [True, False])
def test_no_matrix_of_all_scores_is_held(heads: int, amp: bool):
    attention = GlobalAttention(128, heads=heads).cuda()
    feature = torch.randn(1, 128, 128, 128, device="cuda").to(memory_format=torch.channels_last)
    hole = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    hole[..., 32:96, 32:96] = True
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=amp):
        attention(feature, hole)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        attention(feature, hole)
    added = torch.cuda.max_memory_allocated() - before
    assert added < 64 * 64 * 128 * 128 * 2  # what scores of one head take in 16 bits: 134 MB
