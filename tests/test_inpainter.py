from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import igll
from igll.config import Config, build_config
from igll.engine.checkpoint import save_checkpoint
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.models.edges import SobelDetector
from igll.registry import build_generator

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (21, 30, 3), dtype=np.uint8)
HOLE = np.zeros((21, 30), dtype=bool)
HOLE[12:, 20:] = True  # reaches two borders


def settings(prior: str = "learned", **model) -> Config:
    return build_config(
        {"model": {"width": 4, "structure_prior": prior, **model}, "edges": {"detector": "sobel"}}
    )


def untrained(config: Config, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = build_generator(config.model).eval()
    with torch.no_grad():  # fresh weights give nearly one grey; larger ones answer to the input visibly
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter *= 1.8
    return generator


@pytest.fixture(scope="module")
def model() -> Inpainter:
    config = settings()
    return Inpainter(untrained(config), config)


@pytest.fixture(scope="module")
def oracle() -> Inpainter:
    config = settings("oracle")
    return Inpainter(untrained(config), config)


def expected(inpainter: Inpainter, unit_HWC, hole, edge_HW=None):
    """The composite of a direct call to the generator, in [0, 1]."""
    image = torch.from_numpy(np.float32(unit_HWC)).permute(2, 0, 1)[None] * 2 - 1
    edge = None if edge_HW is None else torch.from_numpy(np.float32(edge_HW))[None, None]
    with torch.no_grad():
        output = inpainter.generator(image, torch.from_numpy(np.float32(hole))[None, None], edge)[1]
    return (output[0].permute(1, 2, 0).numpy() + 1) / 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays(model, dtype, channels):
    full = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    shape = (21, 30) if channels is None else (21, 30, channels)
    image = (RNG.random(shape) * full).astype(dtype)
    before = image.copy()
    result = model.inpaint(image, HOLE)
    assert np.array_equal(image, before)
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    assert np.array_equal(result[~HOLE], image[~HOLE])
    colour = np.broadcast_to(np.atleast_3d(image), (21, 30, 3)) / full
    values = expected(model, colour, HOLE)
    values = values if channels == 3 else values.mean(2, keepdims=True)
    values = np.rint(values * full) if full > 1 else values
    difference = np.abs(np.atleast_3d(result)[HOLE].astype(float) - values[HOLE])
    # Rounding may fall to either side where the mean of grey is summed in another order.
    assert difference.max() <= (1 if full > 1 else 1e-6)
    assert not np.array_equal(result[HOLE], image[HOLE])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("batched", [False, True])
def test_tensors(model, dtype, batched):
    unit = torch.from_numpy(COLOUR).permute(2, 0, 1)
    image = unit if dtype == torch.uint8 else (unit / 255).to(dtype)
    image = torch.stack([image, image.flip(1)]) if batched else image
    mask = torch.from_numpy(HOLE)
    result = model.inpaint(image, mask)
    assert (result.dtype, result.shape, result.device) == (image.dtype, image.shape, image.device)
    assert torch.equal(result[..., ~mask], image[..., ~mask])
    assert not torch.equal(result[..., mask], image[..., mask])
    assert not result.is_inference() and not result.requires_grad
    if dtype == torch.uint8:
        one = result[0] if batched else result
        alone = model.inpaint(COLOUR, HOLE).astype(int)
        # A batch's convolutions may add up in another order: rounding may fall to either side, seldom.
        difference = np.abs(one.permute(1, 2, 0).numpy() - alone)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_one_mask_per_image_of_a_batch_and_images_without_hole(model):
    images = torch.rand(3, 3, 17, 22, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 17, 22)
    masks[0, :5], masks[2, 9:, 3:] = 1, 2
    result = model.inpaint(images, masks)
    assert torch.equal(result[1], images[1])
    assert torch.equal(result, model.inpaint(images, masks[:, None].bool()))
    assert torch.equal(result, model.inpaint(images, masks.numpy().astype(np.uint16)))
    for i in (0, 2):
        alone = model.inpaint(images[i], masks[i])
        assert torch.allclose(alone, result[i], atol=1e-5)
        assert torch.equal(result[i][:, masks[i] == 0], images[i][:, masks[i] == 0])


@pytest.mark.parametrize("size", [(1, 9), (3, 5), (16, 16), (33, 18)])
def test_any_size(model, size):
    image = RNG.random((*size, 3)).astype(np.float32)
    hole = np.zeros(size, dtype=bool)
    hole[-1, -2:] = True
    result = model.inpaint(image, hole)
    assert np.array_equal(result[~hole], image[~hole])
    assert np.isfinite(result).all()


def test_everything_but_a_strip_is_missing(model):
    hole = np.ones((21, 30), dtype=bool)
    hole[:, 3] = False
    result = model.inpaint(COLOUR, hole)
    assert np.array_equal(result[~hole], COLOUR[~hole])


def test_the_content_of_the_hole_does_not_matter(model):
    clean = COLOUR.astype(np.float32) / 255
    dirty = clean.copy()
    dirty[HOLE] = np.nan
    dirty[-1, -1] = 1e30
    assert np.array_equal(model.inpaint(dirty, HOLE), model.inpaint(clean, HOLE))


def test_known_bits_survive_in_float(model):
    image = COLOUR.astype(np.float32) / 255
    image[0, 0], image[0, 1] = -0.0, np.float32(1e-42)
    known = model.inpaint(image, HOLE)[~HOLE]
    assert known.tobytes() == image[~HOLE].tobytes()


def test_an_empty_mask_gives_a_copy(model):
    for image in (COLOUR, Image.fromarray(COLOUR), torch.from_numpy(COLOUR).permute(2, 0, 1)):
        result = model.inpaint(image, np.zeros((21, 30)))
        assert result is not image
        assert np.array_equal(np.asarray(result), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16", "F"])
def test_pillow_modes(model, mode):
    grey = COLOUR[:, :, 0]
    images = {
        "1": lambda: Image.fromarray(grey > 128),
        "L": lambda: Image.fromarray(grey),
        "LA": lambda: Image.fromarray(COLOUR[:, :, :2]),
        "RGB": lambda: Image.fromarray(COLOUR),
        "RGBA": lambda: Image.fromarray(np.dstack([COLOUR, grey])),
        "P": lambda: Image.fromarray(COLOUR).quantize(16),
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "F": lambda: Image.fromarray(grey.astype(np.float32) / 255),
    }
    image = images[mode]()
    before = np.array(image)
    result = model.inpaint(image, Image.fromarray(HOLE))
    assert (result.mode, result.size) == (mode, image.size)
    assert np.array_equal(np.asarray(image), before)
    after = np.asarray(result)
    assert after.dtype == before.dtype
    assert np.array_equal(after[~HOLE], before[~HOLE])
    assert not np.array_equal(after[HOLE], before[HOLE])
    if mode in ("LA", "RGBA"):
        assert (after[HOLE][:, -1] == 255).all()
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(after[..., :3], model.inpaint(COLOUR, HOLE))
    if mode == "I;16":
        assert np.array_equal(after, model.inpaint(grey.astype(np.uint16) * 257, HOLE))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_an_opened_file_of_int16_is_seen_as_its_array_is(model, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = COLOUR[:, :, 0].astype(np.int16) * 128
    keys = {"width": 30, "height": 21, "count": 1, "dtype": "int16", "driver": "GTiff"}
    for name, profile in {"a.tif": {}, "mixed.tif": {"endianness": "BIG", "compress": "deflate"}}.items():
        with rasterio.open(tmp_path / name, "w", **keys, **profile) as file:
            file.write(values, 1)
    with Image.open(tmp_path / "a.tif") as image:
        result = model.inpaint(image, HOLE)
    assert result.mode == "I"
    assert np.array_equal(np.asarray(result), model.inpaint(values, HOLE))
    assert np.array_equal(np.asarray(result)[~HOLE], values[~HOLE])
    with Image.open(tmp_path / "mixed.tif") as image, pytest.raises(InputError, match=r"bytes would be"):
        model.inpaint(image, HOLE)


def test_integers_of_unknown_type_need_a_stretch(model, oracle):
    """Pillow keeps int16 and int32 alike in mode I, and a copy of an opened file no longer tells."""
    values = COLOUR[:, :, 0].astype(np.int32) * 100
    image = Image.fromarray(values)
    with pytest.raises(InputError, match=r"image: 32-bit integers .*give stretch=\(low, high\), or 16 bits"):
        model.inpaint(image, HOLE)
    with pytest.raises(InputError, match=r"edges: array of int32"):
        oracle.inpaint(COLOUR, HOLE, edges=image)
    result = np.asarray(model.inpaint(image, HOLE, stretch=(0, 25_500)))
    wanted = model.inpaint(values.astype(np.int16), HOLE, stretch=(0, 25_500))
    assert np.array_equal(result, wanted)
    far = values + 2**30  # more than float32 counts exactly
    result = np.asarray(model.inpaint(Image.fromarray(far), HOLE, stretch=(2**30, 2**30 + 25_500)))
    assert np.array_equal(result, wanted.astype(np.int32) + 2**30)


def test_masks_in_any_form_agree(model):
    wanted = model.inpaint(COLOUR, HOLE)
    grey = HOLE.astype(np.uint8) * 3
    forms = [
        grey,
        grey[:, :, None],
        HOLE.astype(np.float64),
        torch.from_numpy(grey),
        torch.from_numpy(HOLE)[None],
        Image.fromarray(HOLE),
        Image.fromarray(grey),
        Image.fromarray(np.repeat(grey[:, :, None], 3, 2)),
    ]
    for mask in forms:
        assert np.array_equal(model.inpaint(COLOUR, mask), wanted)


def test_any_number_of_channels():
    config = settings("none", image_channels=6)
    six = Inpainter(untrained(config), config)
    image = RNG.random((20, 24, 6)).astype(np.float32)
    hole = HOLE[:20, :24]
    assert np.array_equal(six.inpaint(image, hole)[~hole], image[~hole])
    with pytest.raises(InputError, match=r"1 channel\(s\), but the model fills images of 6"):
        six.inpaint(image[:, :, 0], hole)


def stretched(stretch, **model) -> Inpainter:
    config = settings("none", **model)
    config = config.model_copy(update={"data": config.data.model_copy(update={"stretch": stretch})})
    return Inpainter(untrained(config), config)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_integers_are_read_and_written_by_the_stretch_of_training(dtype):
    low, high = stretch = [20, 180] if dtype == "uint8" else [100, 9000]
    model = stretched(stretch, image_channels=4)
    image = RNG.integers(0, high + 40, (20, 24, 4)).astype(dtype)
    hole = HOLE[:20, :24]
    unit = ((image.astype(np.float64) - low) / (high - low)).clip(0, 1)
    wanted = expected(model, unit, hole).clip(0, 1) * (high - low) + low
    filled = model.inpaint(image, hole)
    assert filled.dtype == image.dtype and np.array_equal(filled[~hole], image[~hole])
    assert np.abs(filled[hole] - wanted[hole]).max() <= 0.5 + 1e-3 * (high - low) / 255
    # Floats are in [0, 1] already.
    np.testing.assert_allclose(
        model.inpaint(np.float32(unit), hole)[hole],
        wanted[hole] / (high - low) - low / (high - low),
        atol=1e-6,
    )


def test_tensors_and_pictures_are_stretched_too():
    model = stretched([20, 180])
    wanted = model.inpaint(COLOUR, HOLE)
    assert np.array_equal(np.asarray(model.inpaint(Image.fromarray(COLOUR), HOLE)), wanted)
    tensor = model.inpaint(torch.from_numpy(COLOUR).permute(2, 0, 1), torch.from_numpy(HOLE))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), wanted)
    full = Inpainter(model.generator, settings("none"))
    assert not np.array_equal(full.inpaint(COLOUR, HOLE), wanted)

    grey = stretched([1000, 9000], image_channels=1)
    deep = np.random.default_rng(1).integers(0, 12_000, (21, 30), dtype=np.uint16)
    wanted = grey.inpaint(deep, HOLE)
    for picture in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32))):
        found = np.asarray(grey.inpaint(picture, HOLE)).astype(int)
        assert np.array_equal(found[~HOLE], deep[~HOLE])
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_stretch_that_is_given_counts_for_integers_and_floats(model, dtype):
    low, high = (20, 180) if dtype == "uint8" else (100, 3000)
    image = np.random.default_rng(5).integers(0, high + 40, (21, 30, 3)).astype(dtype)
    unit = ((image.astype(np.float64) - low) / (high - low)).clip(0, 1)
    wanted = expected(model, unit, HOLE).clip(0, 1) * (high - low) + low
    for fills in (model, stretched([0, 60000], structure_prior="learned")):
        fills = Inpainter(model.generator, fills.config)
        filled = fills.inpaint(image, HOLE, stretch=(low, high))
        assert filled.dtype == image.dtype and np.array_equal(filled[~HOLE], image[~HOLE])
        assert np.abs(filled[HOLE] - wanted[HOLE]).max() <= 0.5 + 1e-3 * (high - low) / 255
    tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
    found = model.inpaint(tensor, torch.from_numpy(HOLE), stretch=(low, high)).permute(1, 2, 0).numpy()
    assert np.abs(found - wanted)[HOLE].max() <= 1e-2


@pytest.mark.parametrize(
    "stretch",
    [
        (5, 5),
        (9, 1),
        0.5,
        (0,),
        (0, 1, 2),
        ("low", "high"),
        (0, np.inf),
        (0, np.nan),
        (0, 1e39),
        (-3e38, 3e38),
        (0, 1e-50),
        (0, 10**400),
    ],
)
def test_what_is_no_stretch_is_refused(model, stretch):
    with pytest.raises(InputError, match=r"stretch: .*; give the values that become 0 and 1"):
        model.inpaint(COLOUR, HOLE, stretch=stretch)


def test_a_stretch_that_misses_all_known_values_is_refused(model):
    image = COLOUR.clip(2, 250)
    image[HOLE] = 0  # what the hole holds does not count
    told = r"image: all known values lie {} the stretch, {} to {}, .*give stretch=\(low, high\)"
    with pytest.raises(InputError, match=told.format("above", 0, 1)):
        model.inpaint(image, HOLE, stretch=(0, 1))
    with pytest.raises(InputError, match=told.format("below", 256, 10000)):
        stretched([256, 10_000]).inpaint(Image.fromarray(image), HOLE)
    black = np.zeros_like(image)
    assert model.inpaint(black, HOLE, stretch=(0, 10_000)).shape == black.shape  # a value of the stretch


def test_a_reference_is_stretched_like_the_image(oracle):
    deep = COLOUR.astype(np.uint16) * 10
    wanted = oracle.inpaint(COLOUR, HOLE, reference=COLOUR).astype(int)
    found = oracle.inpaint(deep, HOLE, reference=deep, stretch=(0, 2550)).astype(int)
    assert np.abs(found / 10 - wanted)[HOLE].max() <= 0.6


def test_masked_pixels_of_the_image_have_to_be_missing(model):
    masked = np.ma.masked_array(COLOUR, np.zeros(COLOUR.shape, dtype=bool))
    masked[12:, 20:] = np.ma.masked
    masked[0, 0, 1] = masked[3, 4, 2] = np.ma.masked
    with pytest.raises(InputError, match=r"image: 2 pixel\(s\) of the masked array"):
        model.inpaint(masked, HOLE)
    missing = masked.mask.any(2)
    for hard in (False, True):
        given = np.ma.masked_array(masked, hard_mask=hard)
        filled = model.inpaint(given, missing)
        assert np.array_equal(np.asarray(filled), model.inpaint(COLOUR, missing))
        assert not np.ma.getmaskarray(filled).any() and np.array_equal(given.mask, masked.mask)


@pytest.mark.filterwarnings("error")
def test_what_means_no_data_in_the_hole_is_no_trouble(model):
    image = COLOUR / 255
    wanted = model.inpaint(image, HOLE)
    image[HOLE] = -1.797e308
    assert np.array_equal(model.inpaint(image, HOLE)[HOLE], wanted[HOLE])


def test_masked_pixels_of_a_guide_are_refused(oracle):
    masked = np.ma.masked_array(COLOUR, np.zeros(COLOUR.shape, dtype=bool))
    masked[3, 4] = np.ma.masked
    with pytest.raises(
        InputError, match=r"reference: 3 pixel\(s\) of the masked array are masked, but needed"
    ):
        oracle.inpaint(COLOUR, HOLE, reference=masked)
    with pytest.raises(InputError, match=r"edges: 1 pixel\(s\) of the masked array are masked, but needed"):
        oracle.inpaint(COLOUR, HOLE, edges=masked[:, :, 0])


def test_infinity_is_no_brightest_value_and_large_offsets_cost_no_detail(model):
    bright = COLOUR.astype(np.float32)
    bright[0, 0, 0] = np.inf
    with pytest.raises(InputError, match="holds NaN or infinity"):
        model.inpaint(bright, HOLE, stretch=(0, 255))
    wanted = model.inpaint(COLOUR / 255, HOLE)
    high = COLOUR / 255 + 2.0**25
    found = model.inpaint(high, HOLE, stretch=(2**25, 2**25 + 4)) - 2**25
    assert (
        np.array_equal(found[~HOLE], (high - 2**25)[~HOLE]) and found[HOLE].std() > 0.1 * wanted[HOLE].std()
    )


def test_a_stretch_beyond_what_the_type_holds_is_cut_off():
    model = stretched([0, 1000])
    filled = model.inpaint(COLOUR, HOLE)
    unit = expected(model, COLOUR / 1000, HOLE).clip(0, 1)
    wanted = np.rint(unit * 1000).clip(0, 255)
    assert (wanted[HOLE] == 255).any() and np.abs(filled[HOLE] - wanted[HOLE]).max() <= 1
    tensor = model.inpaint(torch.from_numpy(COLOUR).permute(2, 0, 1), torch.from_numpy(HOLE))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), filled)


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (np.full((21, 30, 3), -5, np.int16), HOLE, "span .* of full scale and must be within 0 to 1"),
        (COLOUR, HOLE[:-1], "mask: shape 20×30 does not fit 21×30"),
        (COLOUR, np.repeat(HOLE[:, :, None], 3, 2), "mask: shape 21×30×3 does not fit"),
        (np.dstack([COLOUR, COLOUR[:, :, 0]]), HOLE, r"4 channel\(s\), but the model fills images of 3"),
        (COLOUR.astype(np.float32), HOLE, "span .* of full scale and must be within 0 to 1"),
        (np.full((21, 30, 3), 1.0000001, np.float32), HOLE, r"to 1\.0000001 of full scale"),
        (np.full((21, 30, 3), np.nan), HOLE, "holds NaN or infinity where the mask says known"),
        (COLOUR, np.ones((21, 30)), "every pixel of the image is missing"),
        (COLOUR.astype(np.int64), HOLE, "int64; give"),
        (COLOUR[None], HOLE, r"shape \(1, 21, 30, 3\)"),
        (COLOUR.transpose(2, 0, 1), HOLE, r"\(3, 21, 30\) has its channels first; give \(H, W, C\)"),
        (torch.zeros(21, 30), HOLE, r"tensor of shape \(21, 30\)"),
        (torch.zeros(3, 21, 30, dtype=torch.int32), HOLE, "torch.int32"),
        ("photo.png", HOLE, "image: str; give a NumPy array"),
        (Image.new("CMYK", (30, 21)), HOLE, "colour mode CMYK is not handled"),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4)), "has no pixel"),
    ],
)
def test_bad_images_and_masks(model, image, mask, reason):
    with pytest.raises(InputError, match=reason) as error:
        model.inpaint(image, mask)
    assert "\n" not in str(error.value)


def test_one_fully_missing_image_of_a_batch_is_refused(model):
    masks = torch.zeros(2, 1, 8, 8)
    masks[1] = 1
    with pytest.raises(InputError, match="every pixel"):
        model.inpaint(torch.zeros(2, 3, 8, 8), masks)


# --- guides


def test_an_oracle_model_needs_a_guide(oracle):
    with pytest.raises(
        InputError, match=r"oracle edges .* cannot fill a real hole; give .*--edges.*--reference"
    ):
        oracle.inpaint(COLOUR, HOLE)
    with pytest.raises(InputError, match="both given"):
        oracle.inpaint(COLOUR, HOLE, edges=HOLE, reference=COLOUR)


def test_a_blind_model_takes_no_guide(model):
    for guide in ({"edges": HOLE}, {"reference": COLOUR}):
        with pytest.raises(InputError, match="structure prior 'learned' and looks at no edge map"):
            model.inpaint(COLOUR, HOLE, **guide)


def test_edges_reach_the_generator(oracle):
    edge = RNG.integers(0, 256, HOLE.shape, dtype=np.uint8)
    wanted = np.rint(expected(oracle, COLOUR / 255, HOLE, edge / 255) * 255)
    unit = edge.astype(np.float32) / 255
    for form in (edge, unit, Image.fromarray(edge), torch.from_numpy(edge)[None], Image.fromarray(unit)):
        result = oracle.inpaint(COLOUR, HOLE, edges=form)
        assert np.array_equal(result[HOLE], wanted[HOLE])
        assert np.array_equal(result[~HOLE], COLOUR[~HOLE])
    other = oracle.inpaint(COLOUR, HOLE, edges=np.zeros_like(edge))
    assert not np.array_equal(other, oracle.inpaint(COLOUR, HOLE, edges=edge))


def test_a_reference_is_used_by_its_edges(oracle):
    reference = np.ascontiguousarray(COLOUR[::-1])
    signed = torch.from_numpy(reference.astype(np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    edge = SobelDetector()(signed)[0, 0].numpy()
    wanted = oracle.inpaint(COLOUR, HOLE, edges=edge)
    for form in (reference, Image.fromarray(reference), torch.from_numpy(reference).permute(2, 0, 1)):
        assert np.array_equal(oracle.inpaint(COLOUR, HOLE, reference=form), wanted)
    batch = torch.from_numpy(np.stack([COLOUR, COLOUR])).permute(0, 3, 1, 2)
    filled = oracle.inpaint(batch, HOLE, reference=reference)
    # Convolutions over a batch may sum in another order: a value on the edge of rounding moves one level.
    assert np.abs(filled[1].permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 1


def test_bad_guides(oracle):
    cases = [
        ({"edges": HOLE[:5]}, "edges: shape 5×30 does not fit 21×30"),
        ({"edges": np.full(HOLE.shape, 1.5)}, "edges: values must be complete"),
        ({"edges": HOLE.astype(np.int64)}, "edges: array of int64"),
        ({"reference": COLOUR[:5]}, "reference: 5×30 does not fit the image's 21×30"),
        ({"reference": np.full(COLOUR.shape, np.nan)}, "reference: values must be complete"),
    ]
    for guide, reason in cases:
        with pytest.raises(InputError, match=reason):
            oracle.inpaint(COLOUR, HOLE, **guide)


# --- loading


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = settings()
    path = tmp_path_factory.mktemp("run") / "best.pt"
    weights = {"generator": untrained(config, 1).state_dict(), "ema": untrained(config, 2).state_dict()}
    save_checkpoint(path, {**weights, "config": config.model_dump() | {"device": "cuda"}, "step": 3})
    return path


def test_load_takes_the_averaged_weights_unless_told(checkpoint):
    for overrides, seed in (((), 2), (("eval.weights=raw",), 1)):
        loaded = igll.load(checkpoint, device="cpu", overrides=overrides)
        assert loaded.device == torch.device("cpu")
        wanted = Inpainter(untrained(settings(), seed), settings()).inpaint(COLOUR, HOLE)
        assert np.array_equal(loaded.inpaint(COLOUR, HOLE), wanted)


def test_bf16_is_close_and_touches_no_known_pixel():
    plain, half = (
        igll.load(device="cpu", overrides=[f"eval.amp={wanted}"]).inpaint(COLOUR / 255, HOLE)
        for wanted in ("false", "true")
    )
    assert np.array_equal(half[~HOLE], COLOUR[~HOLE] / 255)
    assert 1e-5 < np.abs(half - plain)[HOLE].max() < 0.03


def test_loading_does_not_depend_on_the_device_of_training(checkpoint):
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert igll.load(str(checkpoint)).device.type == wanted


def test_load_errors(checkpoint, tmp_path):
    for name in ("aid-77", tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(InputError, match=f"^{name}: no such checkpoint; "):
            igll.load(name)
    with pytest.raises(InputError, match="device"):
        igll.load(checkpoint, device="gpu")
    with pytest.raises(InputError, match=r"model.width=8.*fixed by the checkpoint"):
        igll.load(checkpoint, overrides=["model.width=8"])
    with pytest.raises(InputError, match=r"did you mean 'edges.detector'"):
        igll.load(checkpoint, overrides=["edges.detecter=sobel"])


def test_another_detector_drops_the_weights_of_the_one_in_the_checkpoint(tmp_path):
    values = settings("oracle").model_dump()
    values["edges"] = {"detector": "pidinet", "weights": "/absent/table5_pidinet.pth"}
    config = build_config(values)
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"generator": untrained(config).state_dict(), "config": values, "step": 0})
    with pytest.raises(InputError, match=r"edges.weights: /absent"):
        igll.load(path, "cpu").inpaint(COLOUR, HOLE, reference=COLOUR)
    loaded = igll.load(path, "cpu", overrides=["edges.detector=sobel"])
    assert np.array_equal(loaded.inpaint(COLOUR, HOLE, reference=COLOUR)[~HOLE], COLOUR[~HOLE])


def test_importing_the_package_does_not_import_torch():
    code = "import sys, igll; igll.load; assert igll.__version__; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    assert igll.Inpainter is Inpainter
    with pytest.raises(AttributeError, match="no attribute 'unload'"):
        _ = igll.unload
