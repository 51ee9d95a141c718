"""Low-rank loss: the leading singular values of prediction and ground truth (section 3.6)."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.errors import InputError
from igll.losses.precision import full_precision

# Chosen on 256 × 256 photographs: see tests/losses/test_singular_values.py for the accuracy they give.
ITERATIONS = 6
OVERSAMPLING = 3
MORE_COLUMNS = 8  # at least so many beyond the wanted ones
# All off-diagonal entries are rotated away at once; convergence is quadratic, at photographs done after 8.
# Between equal singular values a round halves what is left: of 1e-4 of the largest value, or so, after 10.
ROTATIONS = 10
_TINY = 1e-300  # keeps 0 / 0 out of float64
_SHIFT = 1e-12  # above the rounding of a Gram matrix: keeps the factor of dependent columns real


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
        return self.differences(prediction_BCHW, target_BCHW).mean()

    @torch.no_grad()
    def gap_per_sample(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """The same mean for every sample, detached: gap_B ≥ 0, the discriminator's shift."""
        return self.differences(prediction_BCHW, target_BCHW).mean(1)

    def differences(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Every absolute difference before the mean, normalised if asked for.

        Generator and discriminator use the same differences of a step: take them once, and their mean or
        detached mean per sample is what the other two methods return.

        Args:
            prediction_BCHW: As in :meth:`forward`.
            target_BCHW: As in :meth:`forward`.

        Returns:
            differences_BN ≥ 0, float32, N = channels · patches · k.
        """
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

    On a GPU everything is made of batched products, Cholesky factors and triangular solves: no matrix waits
    for another, and the host never waits for the device. On a CPU one small matrix for each goes to LAPACK.

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
        if columns > rows:
            matrix_NMK = matrix_NMK.mT
        left_NMk, right_NKk = _vectors(matrix_NMK.detach(), k)
        return (left_NMk * (matrix_NMK @ right_NKk)).sum(1)


@torch.no_grad()
def _vectors(matrix_NMK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors of the k leading values, K ≤ M.

    Subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) on the Gram matrix, then
    Rayleigh–Ritz. In float64, squaring costs no digit of a float32 singular value.
    """
    # One matrix that is not finite must not spoil its neighbours; the caller's product brings NaN back.
    matrix_NMK = matrix_NMK.nan_to_num(0, 0, 0)
    precise_NMK = matrix_NMK.double()
    gram_NKK = precise_NMK.mT @ precise_NMK
    columns = matrix_NMK.shape[2]
    width = min(max(OVERSAMPLING * k, k + MORE_COLUMNS), columns)
    basis_NKw = gram_NKK @ _start(columns, width, matrix_NMK.device)
    # Twice: after one product from a random start all columns look like the leading one.
    basis_NKw = _orthonormal(_orthonormal(basis_NKw))
    for _ in range(ITERATIONS):
        # Two products at a time lose the small values of nearly constant images.
        basis_NKw = _orthonormal(gram_NKK @ basis_NKw)
    small_Nww = basis_NKw.mT @ (gram_NKK @ basis_NKw)
    # On a GPU, eigh would have the host wait to see whether it converged.
    eigen = torch.linalg.eigh if small_Nww.device.type == "cpu" else rotate_to_diagonal
    values_Nw, rotation_Nww = eigen(small_Nww)
    leading_Nk = values_Nw.topk(k, dim=1).indices
    rotation_Nwk = rotation_Nww.gather(2, leading_Nk[:, None].expand(-1, rotation_Nww.shape[1], -1))
    right_NKk = basis_NKw @ rotation_Nwk
    left_NMk = F.normalize(precise_NMK @ right_NKk, dim=1)
    return left_NMk.to(matrix_NMK.dtype), right_NKk.to(matrix_NMK.dtype)


@cache
def _start(rows: int, width: int, device: torch.device) -> Tensor:
    """Where the iteration starts: fixed, so that the loss is a function of its inputs alone."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64).to(device)


def _orthonormal(columns_NKw: Tensor) -> Tensor:
    """Orthonormal columns of the same span (Cholesky QR); dependent columns come out near zero."""
    gram_Nww = columns_NKw.mT @ columns_NKw
    # In proportion to the columns' lengths, which may differ by any factor: the factors do not care.
    gram_Nww.diagonal(dim1=1, dim2=2).mul_(1 + _SHIFT).add_(_TINY)
    lower_Nww = torch.linalg.cholesky_ex(gram_Nww).L
    # From the left: on CPUs several times faster than the same from the right.
    return torch.linalg.solve_triangular(lower_Nww, columns_NKw.mT, upper=False).mT


@torch.no_grad()
def rotate_to_diagonal(matrix_Nww: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, in no order, and eigenvectors of symmetric float64 matrices; the host never waits.

    Jacobi's rotations of all pairs of columns at once, to first order, made orthogonal by Cholesky QR. A pair
    with an entry a between diagonal d and e turns by tan θ = a / (g ± √(g² + a²)), g = (e − d) / 2, 45° at
    most. Converges in the rounds given from what a subspace iteration leaves; from any orientation it needs
    more.
    """
    width = matrix_Nww.shape[1]
    identity_ww = torch.eye(width, dtype=matrix_Nww.dtype, device=matrix_Nww.device)
    # Added to g: says which way equal entries turn, and that an entry of the diagonal does not.
    decided_ww = _TINY * torch.ones_like(identity_ww).triu(1)
    decided_ww = (decided_ww - decided_ww.mT).fill_diagonal_(torch.inf)
    vectors_Nww = identity_ww.expand_as(matrix_Nww)
    for _ in range(ROTATIONS):
        # Twice the matrix, symmetric to the last bit: what is turned this way is turned back that way.
        matrix_Nww = matrix_Nww + matrix_Nww.mT
        diagonal_Nw = matrix_Nww.diagonal(dim1=1, dim2=2)
        gap_Nww = torch.add(decided_ww, diagonal_Nw[:, None] - diagonal_Nw[:, :, None], alpha=0.5)
        divisor_Nww = torch.hypot(gap_Nww, matrix_Nww).copysign_(gap_Nww).add_(gap_Nww)
        rotation_Nww = _orthonormal(torch.addcdiv(identity_ww, matrix_Nww, divisor_Nww))
        matrix_Nww = rotation_Nww.mT @ matrix_Nww @ rotation_Nww
        vectors_Nww = vectors_Nww @ rotation_Nww
    return matrix_Nww.diagonal(dim1=1, dim2=2) / 2**ROTATIONS, vectors_Nww
