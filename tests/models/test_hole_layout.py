"""What follows from the mask: neighbours, windows, and a pass that asks the device nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.generator import Generator
from igll.models.hole_layout import OFFSETS, HoleLayout, valid_patches
from igll.models.layers import CANVAS_MARGIN, WINDOW_MARGIN

HEIGHT, WIDTH = 20, 26


def holes() -> Tensor:
    """In turn: a block inside; two far apart; at a corner; nothing; one token."""
    hole_B1HW = torch.zeros(5, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[0, 0, 8:11, 9:14] = True
    hole_B1HW[1, 0, 2, 3] = hole_B1HW[1, 0, 9:11, 10] = True
    hole_B1HW[2, 0, 18:, 23:] = True
    hole_B1HW[4, 0, 0, 12] = True
    return hole_B1HW


def test_neighbours_are_those_that_a_loop_finds() -> None:
    hole_B1HW = holes()
    layout = HoleLayout.of(hole_B1HW)
    foreground = layout.foreground
    listed = foreground.tokens
    for sample in range(5):
        places = [tuple(place) for place in hole_B1HW[sample, 0].nonzero().tolist()]
        beside = sorted({(row, column + side) for row, column in places for side in (-1, 0, 1)})
        framed_X = [(row + 1) * (WIDTH + 2) + column + 1 for row, column in beside]
        assert listed.index_BM[sample][listed.valid_BM[sample]].tolist() == framed_X
        for slot, token in enumerate(beside):
            assert bool(foreground.is_hole_BX[sample, slot]) == (token in places)
            assert token not in places or int(foreground.place_BX[sample, slot]) == places.index(token)
        assert not foreground.is_hole_BX[sample, len(beside) :].any()
        for entry, (row, column) in enumerate(places):
            for offset, (down, right) in enumerate(OFFSETS):
                neighbour = (row + down, column + right)
                assert bool(foreground.is_neighbour_BMO[sample, entry, offset]) == (neighbour in places)
                expected = beside.index(neighbour if neighbour in places else (row, column))
                assert int(foreground.neighbour_BMO[sample, entry, offset]) == expected
            for step, token in enumerate((row + down, column) for down in (-1, 0, 1)):
                assert bool(foreground.in_column_BMT[sample, entry, step]) == (token in beside)
                place = int(foreground.column_BMT[sample, entry, step])
                assert token not in beside or place == beside.index(token)
        assert not foreground.is_neighbour_BMO[sample, len(places) :].any()


def test_a_hole_that_all_images_share_is_worked_out_once_and_the_same() -> None:
    hole_B1HW = torch.zeros(3, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[..., 8:11, 9:14] = True
    shared, moved = HoleLayout.of(hole_B1HW, (4, 1)), hole_B1HW.clone()
    moved[2] = moved[2].roll(1, 1)
    assert shared.holes.index_BM.stride(0) == 0
    for device in ("cpu", "meta"):
        same = shared.to(torch.device(device)).foreground.neighbour_BMO
        assert same.shape == (3, 15, 9) and same.device.type == device
    found: list[Tensor] = []
    expected: list[Tensor] = []
    shared.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    HoleLayout.of(moved, (4, 1)).map(lambda tensor: expected.append(tensor) or tensor)  # type: ignore[func-returns-value]
    for of_all, of_each in zip(found, expected, strict=True):
        assert torch.equal(of_all[:2], of_each[:2])


def test_spans_take_in_what_every_image_of_the_batch_needs() -> None:
    layout = HoleLayout.of(holes())
    foreground = layout.foreground
    for entry in range(layout.holes.index_BM.shape[1]):
        here_BO = foreground.is_neighbour_BMO[:, entry]
        slots = foreground.neighbour_BMO[:, entry][here_BO]
        assert foreground.reach_2M[:, entry].tolist() == [int(slots.min()), int(slots.max())]
        own = foreground.neighbour_BMO[:, entry, 4][here_BO[:, 4]]
        assert foreground.slot_2M[:, entry].tolist() == [int(own.min()), int(own.max())]


def test_sources_are_centres_of_patches_and_those_beside_them() -> None:
    layout = HoleLayout.of(holes())
    for sample, valid_HW in enumerate(valid_patches(holes())[:, 0]):
        centres = [tuple(place) for place in valid_HW.nonzero().tolist()]
        beside = sorted({(row, column + side) for row, column in centres for side in (-1, 0, 1)})
        chosen_Y = layout.sources.valid_BM[sample]
        assert layout.sources.index_BM[sample][chosen_Y].tolist() == [r * WIDTH + c for r, c in beside]
        assert layout.is_centre_BY[sample][chosen_Y].tolist() == [token in centres for token in beside]
        assert not layout.is_centre_BY[sample][~chosen_Y].any()


@pytest.mark.parametrize("margin", [0, 2, 4])
def test_windows_hold_every_hole_and_its_margin_and_are_no_larger(margin: int) -> None:
    hole_B1HW = holes()[:1]
    window = HoleLayout.of(hole_B1HW, (margin, 0)).window
    assert window is not None and (window.height, window.width) == (3 + 2 * margin, 5 + 2 * margin)
    every = HoleLayout.of(holes(), (margin, 0)).window
    assert every is not None
    grid = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    for hole_1HW, index_M in zip(holes(), every.index_BM, strict=True):
        assert len(index_M) == len(index_M.unique()) == every.height * every.width
        near_1HW = F.max_pool2d(hole_1HW.float(), 2 * margin + 1, stride=1, padding=margin) > 0
        assert torch.isin(grid[near_1HW[0]], index_M).all()
        rows, columns = index_M // WIDTH, index_M % WIDTH
        assert int(rows.max() - rows.min()) + 1 == every.height
        assert int(columns.max() - columns.min()) + 1 == every.width


def test_a_window_of_nearly_everything_is_everything() -> None:
    hole_B1HW = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[..., 1:, :] = True
    for layout in (HoleLayout.of(hole_B1HW, (0, 0)), HoleLayout.of(hole_B1HW)):
        assert layout.window is layout.canvas is layout.canvas_in_window is None


@pytest.mark.parametrize("margins", [(4, 1), (2, 2), (100, 1)])
def test_a_canvas_is_found_within_its_window(margins: tuple[int, int]) -> None:
    layout = HoleLayout.of(holes(), margins)
    assert layout.canvas is not None and layout.canvas_in_window is not None
    assert (layout.window is None) == (margins[0] == 100)
    feature_BCHW = torch.randn(len(holes()), 2, HEIGHT, WIDTH)
    windows_BCHW = feature_BCHW if layout.window is None else layout.window.crop(feature_BCHW)
    assert torch.equal(layout.canvas_in_window.crop(windows_BCHW), layout.canvas.crop(feature_BCHW))
    near_B1HW = F.max_pool2d(holes().float(), 3, stride=1, padding=1) > 0
    painted_B1HW = layout.canvas.put_pixels(
        torch.zeros_like(near_B1HW), torch.ones_like(layout.canvas.crop(near_B1HW)), 1
    )
    assert (painted_B1HW | ~near_B1HW).all()


def test_what_is_cut_out_is_put_back() -> None:
    image_BCHW = torch.randn(5, 3, 4 * HEIGHT, 4 * WIDTH, generator=torch.Generator().manual_seed(0))
    window = HoleLayout.of(holes(), (1, 1)).window
    assert window is not None
    part_BCHW = window.crop_pixels(image_BCHW, 4)
    for image, part, index_M in zip(image_BCHW, part_BCHW, window.index_BM, strict=True):
        top, left = divmod(int(index_M[0]), WIDTH)
        rows = slice(4 * top, 4 * (top + window.height))
        assert torch.equal(part, image[:, rows, 4 * left : 4 * (left + window.width)])
    assert torch.equal(window.put_pixels(image_BCHW, part_BCHW, 4), image_BCHW)
    changed_BCHW = window.put_pixels(image_BCHW, part_BCHW + 1, 4)
    assert int((changed_BCHW != image_BCHW).sum()) == part_BCHW.numel()
    assert torch.equal(window.crop_pixels(changed_BCHW, 4), part_BCHW + 1)


@pytest.mark.parametrize("sample", [0, 1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_without_gradient_a_window_that_images_share_is_cut_out_as_a_whole(sample: int, batch: int) -> None:
    layout = HoleLayout.of(holes()[sample : sample + 1].expand(batch, -1, -1, -1), (2, 1))
    feature_BCHW, image_BCHW = (
        torch.randn(batch, 2, HEIGHT, WIDTH),
        torch.randn(batch, 3, 4 * HEIGHT, 4 * WIDTH),
    )
    given_BCHW = image_BCHW.clone()

    def parts() -> list[Tensor]:
        assert layout.window is not None and layout.canvas is not None and layout.canvas_in_window is not None
        window_BCHW = layout.window.crop(feature_BCHW)
        part_BCHW = layout.canvas.crop_pixels(image_BCHW, 4)
        put_BCHW = layout.canvas.put_pixels(image_BCHW, part_BCHW + 1, 4)
        return [window_BCHW, part_BCHW, layout.canvas_in_window.crop(window_BCHW), put_BCHW]

    copied = parts()
    with torch.no_grad():
        found = parts()
    for part, expected in zip(found, copied, strict=True):
        assert torch.equal(part, expected)
    # Nothing that is cut out of a large image keeps the image in memory.
    memory = [tensor.untyped_storage().data_ptr() for tensor in (feature_BCHW, image_BCHW)]
    for part in (*copied, *found):
        assert part.untyped_storage().data_ptr() not in memory
        assert part.untyped_storage().nbytes() == part.nbytes
    assert torch.equal(image_BCHW, given_BCHW)


def test_images_with_holes_in_different_places_share_no_window() -> None:
    layout = HoleLayout.of(holes(), (2, 1))
    assert layout.window is not None and layout.window.corner is None
    feature_BCHW = torch.randn(5, 2, HEIGHT, WIDTH)
    copied = layout.window.crop(feature_BCHW)
    with torch.no_grad():
        assert torch.equal(layout.window.crop(feature_BCHW), copied)


def test_the_margins_are_as_wide_as_they_have_to_be() -> None:
    """Some pixel of the hole depends on a token as far away as the margin, and on none beyond."""
    torch.manual_seed(0)
    net = Generator(width=4, position_grid=8, structure_prior="none").pirn
    hole_B1HW = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    hole_B1HW[..., 20, 20] = True
    net.decoder[1].register_forward_hook(lambda _, __, mixed_BCHW: mixed.append(mixed_BCHW))
    mixed: list[Tensor] = []
    attended_BCHW = torch.randn(1, 16, 40, 40, requires_grad=True)
    features_BCHW = torch.cat([attended_BCHW, net.attention_branch.after(attended_BCHW)], 1)
    decoded_BCHW = net.decoder(features_BCHW)
    hole_pixel_BCHW = F.interpolate(hole_B1HW.float(), scale_factor=4).bool().expand_as(decoded_BCHW)
    reached = torch.autograd.grad(decoded_BCHW[hole_pixel_BCHW].sum(), (attended_BCHW, *mixed))
    for gradient_BCHW, margin in zip(reached, (WINDOW_MARGIN, CANVAS_MARGIN), strict=True):
        rows = gradient_BCHW[0].abs().sum((0, 2)).nonzero()[:, 0]
        assert max(20 - int(rows.min()), int(rows.max()) - 20) == margin


@pytest.mark.parametrize("prior", ["none", "learned"])
@pytest.mark.parametrize("whole_frame", [True, False])
def test_a_pass_with_its_layout_never_waits_for_the_device(prior: str, whole_frame: bool) -> None:
    """Tensors without content cannot be asked: any look at a value fails, as it would wait on a GPU."""
    mask_B1HW = torch.zeros(3, 1, 64, 64)
    mask_B1HW[0, :, 10:20, 30:50] = mask_B1HW[1, :, 40:, 40:] = 1
    with torch.device("meta"):
        net = Generator(width=4, structure_prior=prior, prefill="harmonic", residual=True)  # type: ignore[arg-type]
        image_BCHW = torch.empty(3, 3, 64, 64)
    meta = torch.device("meta")
    layout = net.layout(mask_B1HW, whole_frame).to(meta)
    output = net.fill(image_BCHW, mask_B1HW.to(meta), None, layout)
    output.perception_BCHW.sum().backward()
    assert output.perception_BCHW.shape == image_BCHW.shape
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert all(name.startswith("edges.") for name in without)


@pytest.mark.parametrize("sample", range(5))
def test_halvings_end_where_no_cell_is_hole_throughout(sample: int) -> None:
    hole_B1HW = holes()[sample : sample + 1]
    hole_B1HW[..., 4:9, 7:17] |= sample == 1
    found = HoleLayout.of(hole_B1HW).halvings
    for halvings in range(6):
        side = 2**halvings
        cells = [part for rows in hole_B1HW[0, 0].split(side) for part in rows.split(side, 1)]
        assert any(bool(cell.all()) for cell in cells) == (halvings < found)


def test_halvings_serve_every_image_and_end_at_a_single_cell() -> None:
    hole_B1HW = holes()
    alone = [HoleLayout.of(hole_B1HW[sample : sample + 1]).halvings for sample in range(5)]
    assert HoleLayout.of(hole_B1HW).halvings == max(alone) > min(alone) == 0
    assert HoleLayout.of(torch.ones(2, 1, HEIGHT, WIDTH, dtype=torch.bool)).halvings == 5
