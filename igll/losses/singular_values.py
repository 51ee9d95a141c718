"""Low-rank loss: the leading singular values of prediction and ground truth (section 3.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.errors import InputError
from igll.losses.precision import full_precision

# Chosen on 256 × 256 photographs: see tests/losses/test_singular_values.py for the accuracy they give.
ITERATIONS = 12
OVERSAMPLING = 2
# Below this many rows and columns per wanted value a full decomposition costs no more.
FULL_BELOW = 8


class SingularValueLoss(nn.Module):
    r"""Mean difference of the k leading singular values, the paper's :math:`L_{svd}` (section 3.6).

    .. math:: L_{svd} = \mathbb E_{b,c,i \le k} |\sigma_i(I_{bc}) - \sigma_i(\hat I_{bc})|

    Every channel is one matrix of H × W pixels, or one for each patch. Singular values grow with the image:
    :math:`\sigma_1` is at most :math:`\sqrt{HW}` times the root mean square of the pixels. The paper does
    not speak of a scale; ``normalise`` divides by :math:`\sqrt{HW}`: independent of size.

    Args:
        k: Number of leading singular values.
        patch: Side of the non-overlapping patches; 0 takes the whole image. Images whose sides are no
            multiple of it are continued with zeros, which adds no singular value.
        normalise: Divide singular values by the root of the matrix's number of pixels.

    Raises:
        InputError: ``k`` exceeds the matrices' smaller side.
    """

    def __init__(self, k: int = 16, patch: int = 0, normalise: bool = False) -> None:
        super().__init__()
        if patch and k > patch:
            raise InputError(f"losses.svd_leading={k}: a patch of losses.svd_patch={patch} has only {patch}")
        self.k = k
        self.patch = patch
        self.normalise = normalise

    def forward(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Compare spectra; no gradient flows into the target.

        Args:
            prediction_BCHW: Filled images in [-1, 1].
            target_BCHW: Complete images in [-1, 1].

        Returns:
            Scalar, float32, ≥ 0; at most 1 if normalised.
        """
        return self._differences(prediction_BCHW, target_BCHW).mean()

    @torch.no_grad()
    def gap_per_sample(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """The same mean for every sample, detached: gap_B ≥ 0, the discriminator's shift."""
        return self._differences(prediction_BCHW, target_BCHW).mean(1)

    def _differences(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Normalised absolute differences, (B, channels · patches · k)."""
        batch = prediction_BCHW.shape[0]
        matrix_NMK = self._matrices(torch.cat([prediction_BCHW.float(), target_BCHW.detach().float()]))
        rows, columns = matrix_NMK.shape[1:]
        values_Nk = leading_singular_values(matrix_NMK, self.k)
        if self.normalise:
            values_Nk = values_Nk / (rows * columns) ** 0.5
        prediction_Bk, target_Bk = values_Nk.view(2, batch, -1)
        return (prediction_Bk - target_Bk).abs()

    def _matrices(self, image_BCHW: Tensor) -> Tensor:
        side = self.patch
        if side:
            height, width = image_BCHW.shape[2:]
            image_BCHW = F.pad(image_BCHW, (0, -width % side, 0, -height % side))
            image_BCHW = image_BCHW.unfold(2, side, side).unfold(3, side, side)
        return image_BCHW.reshape(-1, *image_BCHW.shape[-2:])


def leading_singular_values(matrix_NMK: Tensor, k: int) -> Tensor:
    """The k largest singular values of every matrix, differentiable, without a full decomposition.

    The singular vectors are found without gradient; then σ_i = u_iᵀ A v_i with u and v held
    fixed, whose gradient u_i v_iᵀ is that of the singular value. No term divides by a gap
    between singular values, so gradients are finite for constant, empty and low-rank matrices alike.

    Args:
        matrix_NMK: N matrices of M rows and K columns. float64 is kept, anything else computed in float32,
            also under autocast.
        k: How many; at most min(M, K).

    Returns:
        values_Nk, largest first. NaN for a matrix that is not finite.

    Raises:
        InputError: ``k`` is out of range.
    """
    rows, columns = matrix_NMK.shape[1:]
    side = min(rows, columns)
    if not 1 <= k <= side:
        raise InputError(
            f"losses.svd_leading={k}: a {rows} × {columns} matrix has 1 to {side} singular values"
        )
    with full_precision(matrix_NMK):
        matrix_NMK = matrix_NMK if matrix_NMK.dtype == torch.float64 else matrix_NMK.float()
        if rows > columns:
            matrix_NMK = matrix_NMK.mT
        # Decompositions refuse NaN with an error of their own; the products below bring it back as a value.
        finite_NMK = matrix_NMK.detach().nan_to_num(0, 0, 0)
        vectors = _vectors_by_iteration if side >= FULL_BELOW * k else _vectors_by_decomposition
        left_NMk, right_NKk = vectors(finite_NMK, k)
        return (left_NMk * (matrix_NMK @ right_NKk)).sum(1)


@torch.no_grad()
def _vectors_by_decomposition(matrix_NMK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    left_NMM, _, right_NMK = torch.linalg.svd(matrix_NMK, full_matrices=False)
    return left_NMM[..., :k], right_NMK[:, :k].mT


@torch.no_grad()
def _vectors_by_iteration(matrix_NMK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4), then Rayleigh–Ritz."""
    width = OVERSAMPLING * k
    # A fixed start: the loss is a function of its inputs alone, and nobody's random numbers move.
    generator = torch.Generator().manual_seed(0)
    start_Kw = torch.randn(matrix_NMK.shape[-1], width, generator=generator, dtype=matrix_NMK.dtype)
    basis_NMw = torch.linalg.qr(matrix_NMK @ start_Kw.to(matrix_NMK.device)).Q
    for _ in range(ITERATIONS):
        basis_NMw = torch.linalg.qr(matrix_NMK @ (matrix_NMK.mT @ basis_NMw)).Q
    projected_NwK = basis_NMw.mT @ matrix_NMK
    # The small problem in float64: squaring there costs no digit of a float32 singular value.
    small_Nww = projected_NwK.double() @ projected_NwK.double().mT
    rotation_Nwk = torch.linalg.eigh(small_Nww).eigenvectors[..., -k:].flip(-1).to(matrix_NMK.dtype)
    return basis_NMw @ rotation_Nwk, F.normalize(projected_NwK.mT @ rotation_Nwk, dim=1)
