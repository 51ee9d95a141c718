"""HiFill against its published size, dense references and the contract of every network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from igll.baselines.hifill import (
    CoarseNet,
    HiFill,
    LightWeightGatedConvolution,
    aggregate_residual,
    attention_scores,
    cells_with_hole,
    transfer_attention,
    valid_cells,
)
from igll.engine.cost import multiply_adds, parameters


@pytest.fixture(scope="module")
def small() -> HiFill:
    torch.manual_seed(0)
    return HiFill(width=4).eval()


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def square(batch: int, height: int, width: int, start: int, side: int) -> torch.Tensor:
    mask = torch.zeros(batch, 1, height, width)
    mask[..., start : start + side, start : start + side] = 1
    return mask


def published_layers(size: int, width: int = 32) -> list[tuple[str, int, int, int, int]]:
    """The training code's layers: gate, channels in and out, kernel, side of the output."""
    w, coarse = width, 256
    layers = [("sc", 4, w, 5, coarse // 2), ("sc", w, w, 3, coarse // 2)]
    layers += [("sc", w, 2 * w, 3, coarse // 4)] + [("sc", 2 * w, 2 * w, 3, coarse // 4)] * (3 + 14 + 3)
    layers += [("sc", 2 * w, w, 3, coarse // 2), ("sc", w, w, 3, coarse // 2), ("sc", w, 3, 3, coarse)]
    down = ((4, w, 2), (w, 2 * w, 4), (2 * w, 4 * w, 8))
    for before, after, stride in down:
        layers += [("pw", before, after, 3, size // stride), ("pw", after, after, 3, size // stride)]
    layers += [("pw", 4 * w, 4 * w, 3, size // 8)] * 6 + [("pw", 8 * w, 4 * w, 3, size // 8)]
    for channels, stride in ((2 * w, 4), (w, 2)):
        layers += [("pw", 4 * w, channels, 3, size // stride)]
        layers += [("pw", channels, channels, 3, size // stride)] * 3
    return [*layers, ("pw", 2 * w, 3, 3, size)]


class TestSize:
    def test_parameters_are_the_published_codes(self) -> None:
        weights = 0
        for gate, before, after, kernel, _ in published_layers(512):
            gate_weights = before * kernel**2 + 1 if gate == "sc" else before * after + after
            weights += before * after * kernel**2 + after + gate_weights
        assert weights == parameters(HiFill()) == 2_722_791
        assert weights == pytest.approx(2.723e6, rel=0.005)

    @pytest.mark.parametrize(("size", "published"), [(256, 9.0e9), (512, 35.9e9)])
    def test_multiply_adds_are_the_published_codes(self, size: int, published: float) -> None:
        convolutions = sum(
            (before * after * kernel**2 + (before * kernel**2 if gate == "sc" else before * after)) * side**2
            for gate, before, after, kernel, side in published_layers(size)
        )
        cells = (size // 16) ** 2
        # 3 × 3 matching and copying at 128 channels, 8 × 8 patches of 64, 16 × 16 patches of 32.
        attention = cells**2 * (9 * 128 + 9 * 128 + 64 * 64 + 256 * 32)
        model: Any = HiFill().eval()
        found = multiply_adds(model, side=size // 2, size=size)
        assert found == (convolutions + attention, convolutions)
        assert found.true == pytest.approx(published, rel=0.005)

    def test_a_narrow_net_keeps_its_signal(self) -> None:
        torch.manual_seed(0)
        net = CoarseNet(3, 8)
        spread: list[float] = []
        net[22].register_forward_hook(lambda _, inputs, output: spread.append(output.std().item()))
        net(torch.randn(1, 4, 64, 64))
        assert 0.05 < spread[0] < 5


class TestBlocks:
    def test_gates_are_one_channel_or_one_per_channel(self) -> None:
        torch.manual_seed(1)
        image = torch.randn(1, 3, 9, 9)
        for gate, channels in (("single-channel", 1), ("pixelwise", 5)):
            layer = LightWeightGatedConvolution(3, 5, gate, stride=2, dilation=2)  # type: ignore[arg-type]
            feature = F.conv2d(image, layer.feature.weight, layer.feature.bias, 2, 2, 2)
            if gate == "pixelwise":
                opening = torch.einsum("oc,bchw->bohw", layer.gate.weight[..., 0, 0], image[..., ::2, ::2])
            else:
                opening = F.conv2d(image, layer.gate.weight, layer.gate.bias, 2, 2, 2)
            assert layer.gate(image).shape[1] == channels
            expected = torch.where(feature > 0, feature, feature.exp() - 1) / (1 + (-opening).exp())
            assert torch.allclose(layer(image), expected, atol=1e-6)

    def test_attention_against_a_dense_reference(self) -> None:
        rows, columns, channels = 3, 4, 5
        rng = np.random.default_rng(0)
        feature = rng.normal(size=(channels, 2 * rows, 2 * columns)) * 0.3
        valid = rng.random(rows * columns) < 0.6
        sampled = np.pad(feature[:, ::2, ::2], ((0, 0), (1, 1), (1, 1)))
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        patches = [sampled[:, r : r + 3, c : c + 3].ravel() for r, c in cells]
        score = np.array([[q @ k / np.linalg.norm(k) for k in patches] for q in patches])
        column_major = [cells.index((row, column)) for column in range(columns) for row in range(rows)]
        for order in (list(range(len(cells))), column_major):
            place = {cell: index for index, cell in enumerate(order)}
            fused = np.zeros_like(score)
            for query, key in np.ndindex(score.shape):
                for step in (-1, 0, 1):
                    near, far = place[query] + step, place[key] + step
                    if 0 <= near < len(cells) and 0 <= far < len(cells):
                        fused[query, key] += score[order[near], order[far]]
            score = fused
        weight = np.exp(10 * (score - score.max())) * valid
        expected = weight / weight.sum(1, keepdims=True)
        found = attention_scores(torch.tensor(feature)[None].float(), torch.tensor(valid)[None])
        assert np.abs(found[0].numpy() - expected).max() < 1e-4

    def test_attention_without_any_valid_cell_is_zero(self) -> None:
        feature = torch.randn(1, 4, 8, 8, requires_grad=True)
        attention = attention_scores(feature, torch.zeros(1, 16, dtype=torch.bool))
        attention.sum().backward()
        assert (attention == 0).all()
        assert feature.grad is not None and feature.grad.isfinite().all()

    @pytest.mark.parametrize(("stride", "kernel"), [(2, 3), (4, 8)])
    def test_transfer_against_a_dense_reference(self, stride: int, kernel: int) -> None:
        rng = np.random.default_rng(1)
        rows, columns, margin = 2, 3, (kernel - stride + 1) // 2
        feature = rng.normal(size=(2, rows * stride, columns * stride))
        attention = rng.random((6, 6))
        padded = np.pad(feature, ((0, 0), (margin, kernel), (margin, kernel)))
        corners = [(row * stride, column * stride) for row in range(rows) for column in range(columns)]
        filled = np.zeros_like(padded)
        for query, (top, left) in enumerate(corners):
            for key, (row, column) in enumerate(corners):
                copied = padded[:, row : row + kernel, column : column + kernel]
                filled[:, top : top + kernel, left : left + kernel] += attention[query, key] * copied
        expected = filled[:, margin : margin + rows * stride, margin : margin + columns * stride]
        found = transfer_attention(torch.tensor(feature)[None], torch.tensor(attention)[None], stride, kernel)
        assert np.abs(found[0].numpy() - expected).max() < 1e-12

    def test_cells_next_to_the_hole_are_not_attended_to(self) -> None:
        mask = torch.zeros(1, 1, 80, 96)
        mask[..., 37, 50] = 1  # cell (2, 3) of 5 × 6
        assert cells_with_hole(mask)[0, 0].nonzero().tolist() == [[2, 3]]
        expected = torch.ones(5, 6, dtype=torch.bool)
        expected[1:4, 2:5] = False
        assert torch.equal(valid_cells(mask)[0], expected.flatten())


class TestResidualAggregation:
    def test_against_a_dense_reference(self) -> None:
        rng = np.random.default_rng(2)
        batch, channels, rows, columns, cell = 2, 3, 2, 3, 4
        residual = rng.normal(size=(batch, channels, rows * cell, columns * cell))
        attention = rng.random((batch, 6, 6))
        filled = rng.random((batch, 1, rows, columns)) < 0.5
        expected = np.zeros_like(residual)
        for sample, query, key in np.ndindex(batch, 6, 6):
            (row, column), (from_row, from_column) = divmod(query, columns), divmod(key, columns)
            if filled[sample, 0, row, column]:
                source = residual[sample, :, from_row * cell :, from_column * cell :][:, :cell, :cell]
                target = expected[sample, :, row * cell :, column * cell :][:, :cell, :cell]
                target += attention[sample, query, key] * source
        found = aggregate_residual(
            torch.tensor(residual), torch.tensor(attention), torch.tensor(filled)
        ).numpy()
        assert 0 < filled.sum() < filled.size
        assert np.abs(found - expected).max() < 1e-12

    def test_a_periodic_texture_comes_back_sharp(self, small: HiFill) -> None:
        """Stripes finer than the working size can hold, on a smooth ground: what no upsampling can show."""
        model = HiFill(width=4, working_size=128).eval()
        model.load_state_dict(small.state_dict())
        column = torch.arange(512)
        texture = 0.3 * torch.where(column % 4 < 2, 1.0, -1.0).expand(1, 3, 512, 512)
        ground = 0.2 * torch.linspace(-1, 1, 512)[:, None]
        image, mask = texture + ground, square(1, 512, 512, 190, 120)
        with torch.no_grad():
            output = model.fill(image, mask)
            small_mask = F.max_pool2d(mask, 4)
            _, painted, _ = model._paint(F.avg_pool2d(image, 4) * (1 - small_mask), small_mask)
        upsampled = F.interpolate(painted, scale_factor=4, mode="bilinear", align_corners=False)
        hole = (slice(None), slice(None), slice(192, 308), slice(192, 308))
        restored = output.predictions[-1][hole] - upsampled[hole]
        assert torch.allclose(restored, texture[hole], atol=0.02)

        def detail(picture: torch.Tensor) -> float:
            return picture[hole].diff(dim=3).abs().mean().item()

        assert detail(output.perception_BCHW) > 0.9 * detail(image)
        assert detail(upsampled) < 0.2 * detail(image)

    def test_the_nets_see_the_working_size_alone(self, small: HiFill) -> None:
        model = HiFill(width=4, working_size=64).eval()
        seen = []
        model.refinement.register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0].shape, output[1].shape))
        )
        with torch.no_grad():
            for height, width in ((64, 64), (65, 40), (200, 256)):
                model.fill(random_image(1, 3, height, width), square(1, height, width, 8, 20))
        assert [tuple(image[2:]) for image, _ in seen] == [(64, 64), (48, 32), (64, 64)]
        assert [attention[1] for _, attention in seen] == [16, 6, 16]

    def test_holes_do_not_leak_into_the_detail(self) -> None:
        model = HiFill(width=4, working_size=64).eval()
        image, mask = random_image(1, 3, 256, 256), square(1, 256, 256, 90, 50)
        spoilt = torch.where(mask > 0.5, torch.nan, image)
        with torch.no_grad():
            assert torch.equal(model(image, mask)[1], model(spoilt, mask)[1])

    @pytest.mark.parametrize("size", [0, 8, 100])
    def test_a_working_size_off_the_grid_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="multiple of 16"):
            HiFill(width=4, working_size=size)


class TestContract:
    @pytest.mark.parametrize("shape", [(3, 16, 16), (1, 33, 70), (5, 64, 47), (3, 600, 20)])
    def test_any_size_and_channels(self, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        model = HiFill(channels, width=4).eval()
        image, mask = random_image(2, *shape), square(2, height, width, 3, 9)
        with torch.no_grad():
            output = model.fill(torch.where(mask > 0.5, torch.nan, image), mask)
        known = (mask < 0.5).expand_as(image)
        assert len(output.predictions) == 2 and output.edge_logits_B1HW is None
        for picture in (*output.predictions, output.pixel_BCHW, output.perception_BCHW):
            assert picture.shape == image.shape and picture.isfinite().all() and picture.abs().max() <= 1
        for filled, painted in zip(output[:2], output.predictions, strict=True):
            assert torch.equal(filled[known], image[known])
            assert torch.equal(filled[~known], painted[~known])

    @pytest.mark.parametrize("size", [48, 700])
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_no_hole_and_all_hole(self, small: HiFill, size: int, value: float) -> None:
        image, mask = random_image(1, 3, size, size), torch.full((1, 1, size, size), value)
        with torch.no_grad():
            result = small(image, mask)[1]
        assert result.isfinite().all() and torch.equal(result, image) == (value == 0)

    @pytest.mark.parametrize("working_size", [512, 64])
    def test_samples_do_not_see_each_other(self, small: HiFill, working_size: int) -> None:
        model = HiFill(width=4, working_size=working_size).eval()
        model.load_state_dict(small.state_dict())
        image = random_image(2, 3, 128, 128)
        mask = torch.cat([square(1, 128, 128, 40, 30), square(1, 128, 128, 10, 12)])
        with torch.no_grad():
            together = model(image, mask)[1]
            alone = torch.cat([model(image[i : i + 1], mask[i : i + 1])[1] for i in range(2)])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_gradients_reach_every_parameter(self) -> None:
        torch.manual_seed(0)
        model = HiFill(width=4)
        output = model.fill(random_image(1, 3, 96, 96), square(1, 96, 96, 36, 20))
        sum(prediction.square().mean() for prediction in output.predictions).backward()  # type: ignore[union-attr]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_autocast_stays_close(self, small: HiFill) -> None:
        image, mask = random_image(1, 3, 64, 64), square(1, 64, 64, 24, 12)
        with torch.no_grad():
            exact = small(image, mask)[1]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = small(image, mask)[1]
        assert rough.dtype == torch.float32
        assert 0 < (rough - exact).abs().max() < 0.05

    def test_edges_and_misfits_are_refused(self, small: HiFill) -> None:
        image, mask = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
        with pytest.raises(ValueError, match="no edge map"):
            small.fill(image, mask, mask)
        with pytest.raises(ValueError, match="does not fit"):
            small.fill(image, mask[..., :16])
