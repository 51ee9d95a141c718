"""Loss of the learned structure prior: completed edges against the detector's (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from igll.distributed import batch_mean


class EdgeCompletionLoss(nn.Module):
    r"""Class-balanced cross-entropy of edge logits, with emphasis on the hole.

    The balance is that of holistically nested edge detection (Xie & Tu 2015, equation 2), which PiDiNet
    (Su et al. 2021) also trains with, here for soft targets y:

    .. math::
        L = -\frac{1}{\sum_p w_p} \sum_p w_p
            \left[ \beta\, y_p \log \sigma(z_p) + (1-\beta)(1-y_p) \log(1-\sigma(z_p)) \right]

    with :math:`w_p = 1 + (h - 1) M_p` and :math:`\beta = \sum_p w_p (1 - y_p) / \sum_p w_p`, the share of
    what is no edge: edges and the rest of the batch weigh alike, however few edges there are.

    Args:
        hole_weight: h, the weight of a missing pixel relative to a known one.
    """

    def __init__(self, hole_weight: float = 5.0) -> None:
        super().__init__()
        self.hole_weight = hole_weight

    def forward(self, logits_B1HW: Tensor, target_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Compare predicted with detected edges.

        Args:
            logits_B1HW: Predicted edges before the sigmoid.
            target_B1HW: The detector's map of the complete image, in [0, 1].
            mask_B1HW: 1 = missing.

        Returns:
            Scalar, float32, ≥ 0.
        """
        logits_B1HW, target_B1HW = logits_B1HW.float(), target_B1HW.detach().float()
        weight_B1HW = 1 + (self.hole_weight - 1) * mask_B1HW.float()
        total, rest = batch_mean(torch.stack([weight_B1HW.sum(), (weight_B1HW * (1 - target_B1HW)).sum()]))
        rest = rest / total
        edge_B1HW = rest * target_B1HW * softplus(-logits_B1HW)
        rest_B1HW = (1 - rest) * (1 - target_B1HW) * softplus(logits_B1HW)
        return (weight_B1HW * (edge_B1HW + rest_B1HW)).sum() / total
