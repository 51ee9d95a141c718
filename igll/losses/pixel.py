"""Pixel losses: what the hole's pixels are off by (section 3.6), and the whole frame's, as peers have it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from igll.distributed import batch_mean


class LocalL1Loss(nn.Module):
    r"""Mean absolute difference over the hole, the paper's :math:`L_{local}` (section 3.6).

    .. math:: L_{local} = \frac{\sum_{b,c,p} M_{bp}\,|\hat I_{bcp} - I_{bcp}|}{C \sum_{b,p} M_{bp}}

    The mean runs over all hole pixels of the batch, so a sample counts by the size of its hole.
    """

    def forward(self, prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Compare inside the hole.

        Args:
            prediction_BCHW: Filled images in [-1, 1].
            target_BCHW: Complete images in [-1, 1].
            mask_B1HW: 1 = missing.

        Returns:
            Scalar in [0, 2], float32; 0 with zero gradient where no pixel is missing.
        """
        mask_B1HW = mask_B1HW.float()
        difference_BCHW = (prediction_BCHW.float() - target_BCHW.float()).abs() * mask_B1HW
        values = batch_mean(mask_B1HW.sum() * prediction_BCHW.shape[1])
        return difference_BCHW.sum() / values.clamp(min=1e-3)


class LogErrorLoss(nn.Module):
    r"""Logarithm of every image's squared error in its hole: the hole's PSNR as a loss. Not the paper's.

    .. math:: L_{log} = \mathbb E_b \ln\left(1 + \frac{1}{\epsilon}
        \frac{\sum_{c,p} M_{bp}\,(\hat I_{bcp} - I_{bcp})^2}{C \sum_p M_{bp}}\right)

    Smooth images, on which a membrane is nearly right, count as much as rough ones. The addend keeps images
    that are filled to within a few grey levels from counting without end.

    Args:
        addend: :math:`\epsilon`, a squared error of pixels in [-1, 1]; 1e-3 is that of four grey levels
            of 255.
    """

    def __init__(self, addend: float = 1e-3) -> None:
        super().__init__()
        self.addend = addend

    def forward(self, prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Compare inside the hole.

        Args:
            prediction_BCHW: Filled images in [-1, 1].
            target_BCHW: Complete images in [-1, 1].
            mask_B1HW: 1 = missing.

        Returns:
            Scalar, float32, ≥ 0; an image without a hole counts as 0.
        """
        mask_B1HW = mask_B1HW.float()
        square_BCHW = (prediction_BCHW.float() - target_BCHW.float()).square() * mask_B1HW
        values_B = mask_B1HW.sum((1, 2, 3)) * prediction_BCHW.shape[1]
        error_B = square_BCHW.sum((1, 2, 3)) / values_B.clamp(min=1.0)
        return (error_B / self.addend).log1p().mean()


class StagedL1Loss(nn.Module):
    r"""HiFill's reconstruction: every stage, hole and known pixels each by themselves (arXiv 2005.09704).

    .. math::
        L_{staged} = \sum_s w_s \left( \overline{M |\hat I_s - I|}
            + \overline{(1 - M) |\hat I_s - I|} \,/\, \overline{1 - M} \right)

    with :math:`w_s = 1.2` for every stage but the last, which has 1, as in the published code.
    """

    EARLIER = 1.2

    def forward(self, predictions: Sequence[Tensor], target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Compare every stage's whole frame.

        Args:
            predictions: Frames (B, C, H, W) in [-1, 1], the first stage's first.
            target_BCHW: Complete images in [-1, 1].
            mask_B1HW: 1 = missing.

        Returns:
            Scalar, float32, ≥ 0.
        """
        mask_B1HW = mask_B1HW.float()
        known = batch_mean((1 - mask_B1HW).mean()).clamp(min=1 / mask_B1HW[0].numel())
        total = target_BCHW.new_zeros((), dtype=mask_B1HW.dtype)
        for stage, prediction_BCHW in enumerate(predictions, start=1):
            difference_BCHW = (prediction_BCHW.float() - target_BCHW.float()).abs()
            hole = (difference_BCHW * mask_B1HW).mean()
            rest = (difference_BCHW * (1 - mask_B1HW)).mean() / known
            total = total + (self.EARLIER if stage < len(predictions) else 1.0) * (hole + rest)
        return total


class WholeL1Loss(nn.Module):
    r"""Mean absolute difference over the whole frame, known pixels included.

    .. math:: L_{whole} = \overline{|\hat I - I|} \quad\text{or}\quad \overline{|\hat I - I|} / \overline{M}

    Args:
        per_hole: Divide by the hole's share of the batch, as HINT's code does, so that small holes count.
    """

    def __init__(self, per_hole: bool = False) -> None:
        super().__init__()
        self.per_hole = per_hole

    def forward(self, prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Compare everywhere.

        Args:
            prediction_BCHW: What the network painted, or its composite, in [-1, 1].
            target_BCHW: Complete images in [-1, 1].
            mask_B1HW: 1 = missing.

        Returns:
            Scalar, float32, ≥ 0.
        """
        distance = (prediction_BCHW.float() - target_BCHW.float()).abs().mean()
        if not self.per_hole:
            return distance
        mask_B1HW = mask_B1HW.float()
        return distance / batch_mean(mask_B1HW.mean()).clamp(min=1 / mask_B1HW[0].numel())
