"""The maps that are drawn are those of the filling that is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll.config import build_config
from igll.engine.attention_maps import attention_maps, draw_attention
from igll.engine.checkpoint import save_checkpoint
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.registry import build_generator

HEIGHT, WIDTH = 38, 45  # neither is a multiple of 4


def inpainter(heads: int = 1, prior: str = "learned", amp: bool = False) -> Inpainter:
    torch.manual_seed(0)
    config = build_config(
        {
            "device": "cpu",
            "model": {"width": 4, "structure_prior": prior, "heads": heads, "position_grid": 8},
            "edges": {"detector": "sobel"},
            "eval": {"amp": amp},
        }
    )
    return Inpainter(build_generator(config.model).eval(), config)


def scene() -> tuple[np.ndarray, np.ndarray]:
    image_HWC = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[12:25, 16:31] = True
    return image_HWC, mask_HW


@pytest.mark.parametrize(("heads", "amp"), [(1, False), (3, False), (1, True)])
def test_maps_of_every_module_and_head(heads: int, amp: bool):
    model, (image_HWC, mask_HW) = inpainter(heads, amp=amp), scene()
    maps = attention_maps(model, image_HWC, mask_HW, (20, 22))
    assert [heat.slot for heat in maps.maps] == [
        *(("GAM", head) for head in range(heads)),
        *(("FFSM GAM", head) for head in range(heads)),
        ("FFSM scores", 0),
        ("FFSM", 0),
    ]
    hole_HW = np.zeros((10, 12), bool)
    hole_HW[3:7, 4:8] = True
    for heat in maps.maps:
        assert heat.values_HW.shape == (10, 12)
        if heat.unit == "weight":
            assert heat.values_HW.sum() == pytest.approx(1, abs=1e-5)
        if heat.slot[0] in ("FFSM GAM", "FFSM"):
            assert (heat.values_HW[hole_HW] == 0).all() and (heat.values_HW[~hole_HW] > 0).any()
    gam = np.stack([heat.values_HW for heat in maps.maps[:heads]])
    assert (gam[:, hole_HW] > 0).all(), "GAM of PIRN looks at the hole too"
    assert len({values.tobytes() for values in gam}) == heads
    assert np.array_equal(maps.result_HWC, model.inpaint(image_HWC, mask_HW))
    assert not model.generator.pirn.attention_branch.attention._forward_pre_hooks


def test_the_map_is_that_of_the_pixels_token():
    model, (image_HWC, mask_HW) = inpainter(), scene()
    heard = []
    gam = model.generator.pirn.attention_branch.attention
    hook = gam.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[:2]))
    model.inpaint(image_HWC, mask_HW)
    hook.remove()
    for pixel, token in (((12, 16), (3, 4)), ((15, 19), (3, 4)), ((24, 30), (6, 7))):
        with torch.inference_mode():
            expected = gam.weights(*heard[0], *token)[0, 0].numpy()
        values_HW = attention_maps(model, image_HWC, mask_HW, pixel).maps[0].values_HW
        assert np.allclose(values_HW, expected, rtol=0, atol=1e-7)


def test_pixels_that_are_not_missing_are_refused():
    image_HWC, mask_HW = scene()
    with pytest.raises(InputError, match="pixel 3 3: is known"):
        attention_maps(inpainter(), image_HWC, mask_HW, (3, 3))
    for pixel in ((HEIGHT, 0), (-1, 20)):
        with pytest.raises(InputError, match="outside the image of 38×45"):
            attention_maps(inpainter(), image_HWC, mask_HW, pixel)


def test_one_and_three_heads_in_one_figure(tmp_path: Path):
    image_HWC, mask_HW = scene()
    rows = [
        ("one", attention_maps(inpainter(1), image_HWC, mask_HW, (20, 22))),
        ("three", attention_maps(inpainter(3), image_HWC, mask_HW, (20, 22))),
    ]
    draw_attention(rows, tmp_path / "new" / "maps.png")
    assert (tmp_path / "new" / "maps.pdf").read_bytes().startswith(b"%PDF")
    pixels = np.asarray(Image.open(tmp_path / "new" / "maps.png").convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    ring = (abs(pixels - (0, 229, 255)).sum(2) < 20).reshape(2, height // 2, 10, width // 10).any((1, 3))
    assert ring.tolist() == [
        [True, True, False, False, True, False, False, True, True, False],
        [True, True, True, True, True, True, True, True, True, False],
    ], "input, three heads of GAM, three of FFSM's GAM, scores, origin, result"
    pink = (abs(pixels - (235, 64, 140)).sum(2) < 20).reshape(2, height // 2, 10, width // 10).any((1, 3))
    assert pink[:, 0].all() and not pink[:, -1].any()


def test_oracle_edges_are_labelled(tmp_path: Path):
    image_HWC, mask_HW = scene()
    model = inpainter(prior="oracle")
    with pytest.raises(InputError, match="oracle edges"):
        attention_maps(model, image_HWC, mask_HW, (20, 22))
    maps = attention_maps(model, image_HWC, mask_HW, (20, 22), reference=image_HWC)
    assert maps.oracle and not attention_maps(inpainter(), image_HWC, mask_HW, (20, 22)).oracle
    pixels = []
    for shown in (maps, maps.__class__(**{**vars(maps), "oracle": False})):
        draw_attention([("name", shown)], tmp_path / "maps.pdf")
        pixels.append(np.asarray(Image.open(tmp_path / "maps.png")))
    differing = (pixels[0] != pixels[1]).any(axis=2)
    assert differing[:60].any() and not differing[60:].any(), "the title alone"


def test_where_there_is_nothing_to_copy(tmp_path: Path):
    image_HWC, mask_HW = scene()
    mask_HW[:] = True
    mask_HW[:, :4] = False
    maps = attention_maps(inpainter(), image_HWC, mask_HW, (20, 22))
    assert np.isnan(maps.maps[-2].values_HW).all() and (maps.maps[-1].values_HW == 0).all()
    draw_attention([("name", maps)], tmp_path / "maps.png")
    with pytest.raises(InputError, match="nothing to draw"):
        draw_attention([], tmp_path / "maps.png")


def test_script(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2])
    from scripts.attention_maps import main

    image_HWC, mask_HW = scene()
    Image.fromarray(image_HWC).save(tmp_path / "image.png")
    Image.fromarray(mask_HW).save(tmp_path / "mask.png")
    paths = []
    for prior in ("learned", "oracle"):
        model = inpainter(prior=prior)
        paths.append(tmp_path / prior / "checkpoints" / "last.pt")
        state = {"generator": model.generator.state_dict(), "config": model.config.model_dump(), "step": 1}
        save_checkpoint(paths[-1], state)
    image, mask, out = (tmp_path / name for name in ("image.png", "mask.png", "maps.png"))
    arguments = ["--image", image, "--mask", mask, "--pixel", 10, 14, "--out", out, "--crop", 6, 8, 28]
    arguments = [*map(str, arguments), "--set", "device=cpu"]
    assert main([*arguments, "--reference", str(image), "--checkpoints", *map(str, paths)]) == 0
    assert out.exists() and out.with_suffix(".pdf").exists() and "maps.png" in capsys.readouterr().out
    for wrong, message in (
        (["--names", "a", "b"], "--names: 2 for 1"),
        (["--crop", "20", "8", "28"], "reaches beyond"),
        (["--reference", str(image)], "looks at no edge map"),
    ):
        with pytest.raises(InputError, match=message):
            main([*arguments, "--checkpoints", str(paths[0]), *wrong])
