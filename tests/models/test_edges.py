"""Published PiDiNet weights and the parameter-free detector."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import filters
from torch import Tensor

from igll.errors import InputError
from igll.models import edges
from igll.models.edges import (
    PUBLISHED_PIDINET,
    PiDiNet,
    SobelDetector,
    build_edge_detector,
    load_pidinet,
)

PARAMETERS = {"pidinet": 710_149, "pidinet_small": 183_763, "pidinet_tiny": 84_477}
# From a float64 run of the authors' unconverted operators on `drawn_scene`: the mean of the fused map, and
# its values at the (row, column) places below.
PLACES = ((30, 20), (10, 60), (50, 75), (33, 44), (0, 0))
REFERENCE = {
    "pidinet": (0.1615241, (0.5224310, 0.4778017, 0.4279165, 0.1051721, 0.0151536)),
    "pidinet_small": (0.1443718, (0.8494843, 0.3333201, 0.2502928, 0.0530841, 0.0000002)),
    "pidinet_tiny": (0.2739970, (0.7840802, 0.6625846, 0.5907136, 0.2102669, 0.0037169)),
}


def drawn_scene() -> Tensor:
    """A disc, stripes and a step, one per channel, of odd shape: (1, 3, 67, 90) in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(67), torch.arange(90), indexing="ij")
    disc, stripes, step = (x - 40) ** 2 + (y - 30) ** 2 < 400, (x + y) % 50 < 25, x > 60
    return torch.stack([disc, stripes, step])[None].double() * 2 - 1


def real_image(path: Path) -> Tensor:
    """An image file as (1, 3, H, W) in [-1, 1]."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def weights_of(shared: Path, variant: str) -> Path:
    return shared / "weights" / PUBLISHED_PIDINET[variant].file_name


@pytest.mark.parametrize("variant", list(PUBLISHED_PIDINET))
def test_published_weights_give_the_published_map(shared: Path, variant: str) -> None:
    path = weights_of(shared, variant)
    stored = torch.load(path, weights_only=True)["state_dict"]
    detector = load_pidinet(variant, path)
    assert {f"module.{name}" for name in detector.state_dict()} == set(stored)
    assert sum(p.numel() for p in detector.parameters()) == PARAMETERS[variant]
    with torch.no_grad():
        edge_B1HW = detector.double()(drawn_scene())
    mean, values = REFERENCE[variant]
    assert edge_B1HW.shape == (1, 1, 67, 90)
    assert edge_B1HW.mean().item() == pytest.approx(mean, abs=2e-7)
    assert [edge_B1HW[0, 0, y, x].item() for y, x in PLACES] == pytest.approx(values, abs=2e-7)


def test_weights_are_found_in_the_hub_cache(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = weights_of(shared, "pidinet_tiny")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / source.name).write_bytes(source.read_bytes())
    found, given = build_edge_detector("pidinet_tiny"), build_edge_detector("pidinet_tiny", source)
    assert found.fingerprint == given.fingerprint == "pidinet_tiny-e32b23fff6c1"
    assert torch.equal(found(drawn_scene().float()), given(drawn_scene().float()))


def test_detectors_are_frozen_and_told_apart(shared: Path) -> None:
    detectors = [build_edge_detector(v, weights_of(shared, v)) for v in PUBLISHED_PIDINET]
    detectors.append(build_edge_detector("sobel"))
    assert not any(d.training or any(p.requires_grad for p in d.parameters()) for d in detectors)
    assert len({detector.fingerprint for detector in detectors}) == 4


@pytest.mark.parametrize("name", ["pidinet", "pidinet_small", "pidinet_tiny", "sobel"])
def test_edges_of_real_scenes_are_where_the_gradient_is(shared: Path, name: str) -> None:
    detector = build_edge_detector(name, None if name == "sobel" else weights_of(shared, name))
    maps, gradients = [], []
    for scene_class in ("Industry", "Parking", "Resident"):
        image_BCHW = real_image(sorted((shared / "data/rsscn7/val" / scene_class).iterdir())[0])
        with torch.no_grad():
            maps.append(detector(image_BCHW)[0, 0].numpy())
        grey_HW = image_BCHW[0].mean(dim=0).numpy()
        gradients.append(filters.sobel(ndimage.gaussian_filter(grey_HW, 3)))
    own = [correlation(a, b) for a, b in zip(maps, gradients, strict=True)]
    other = [correlation(a, b) for a, b in zip(maps, gradients[1:] + gradients[:1], strict=True)]
    assert min(own) > 0.55
    assert max(other) < 0.15


def test_missing_weights_say_what_to_get_and_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError) as caught:
        build_edge_detector("pidinet_small")
    message = str(caught.value)
    for part in (
        str(tmp_path / "checkpoints" / "table5_pidinet-small.pth"),
        "github.com/hellozhuo/pidinet",
        "trained_models",
        "research use",
        "edges.weights",
        "edges.detector",
    ):
        assert part in message
    assert "\n" not in message


def test_another_variants_weights_are_named(shared: Path) -> None:
    with pytest.raises(
        InputError, match=r"published file of pidinet but that of pidinet_tiny; get table5_pidinet"
    ):
        load_pidinet("pidinet", weights_of(shared, "pidinet_tiny"))


@pytest.mark.parametrize("kind", ["damaged", "oversized", "folder"])
def test_unusable_weights_are_refused(shared: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "table5_pidinet-tiny.pth"
    content = bytearray(weights_of(shared, "pidinet_tiny").read_bytes())
    if kind == "folder":
        path.mkdir()
    elif kind == "damaged":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content + bytes(8 * 2**20))
    with pytest.raises(InputError, match=r"^edges\.weights: .*table5_pidinet-tiny\.pth"):
        load_pidinet("pidinet_tiny", path)


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_a_pickle_bomb_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "table5_pidinet.pth"
    if container == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": _Bomb(marker)}, protocol=2))
    else:
        torch.save({"state_dict": _Bomb(marker)}, path)
    with pytest.raises(InputError, match="not the published file"):
        load_pidinet("pidinet", path)
    # Even a file that passed the checksum would be read without running anything.
    sha256 = edges.hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLISHED_PIDINET, "pidinet", PUBLISHED_PIDINET["pidinet"]._replace(sha256=sha256))
    with pytest.raises(pickle.UnpicklingError):
        load_pidinet("pidinet", path)
    assert not marker.exists()
    # The same file does go off where it is trusted, so the lines above held something back.
    torch.load(path, weights_only=False) if container == "torch" else pickle.loads(path.read_bytes())  # noqa: S301
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "weights", "key"),
    [("canny", None, "edges.detector"), ("sobel", "some.pth", "edges.weights")],
)
def test_bad_detector_settings_are_refused(name: str, weights: str | None, key: str) -> None:
    with pytest.raises(InputError, match=key):
        build_edge_detector(name, weights)
    with pytest.raises(InputError, match=r"edges\.detector"):
        load_pidinet(name, weights)


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (40, 4), (65, 50)])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_any_size_and_any_channels(size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    image_BCHW = torch.rand(2, channels, *size) * 2 - 1
    for detector in (PiDiNet("pidinet_tiny").eval(), SobelDetector()):
        with torch.no_grad():
            edge_B1HW = detector(image_BCHW)
        assert edge_B1HW.shape == (2, 1, *size)
        assert edge_B1HW.isfinite().all() and edge_B1HW.min() >= 0 and edge_B1HW.max() <= 1


def test_pidinet_sees_other_channel_counts_as_their_mean() -> None:
    torch.manual_seed(0)
    detector = PiDiNet("pidinet_tiny").eval()
    image_B5HW = torch.rand(1, 5, 24, 24) * 2 - 1
    grey_B1HW = image_B5HW.mean(dim=1, keepdim=True)
    expected_B1HW = detector(grey_B1HW.repeat(1, 3, 1, 1))
    assert torch.equal(detector(grey_B1HW), expected_B1HW)
    assert torch.equal(detector(image_B5HW), expected_B1HW)


def test_sobel_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    image_CHW = ndimage.gaussian_filter(rng.standard_normal((3, 40, 31)), (0, 2, 2)) * 4
    strengths = []
    for scale in (1.5, 3, 6):
        per_channel = [
            ndimage.gaussian_gradient_magnitude(plane, scale, mode="nearest", truncate=4)
            for plane in image_CHW
        ]
        strengths.append(scale * np.sqrt(np.mean(np.square(per_channel), axis=0)))
    strength_HW = np.prod(strengths, axis=0) ** (1 / 3)
    thinned_HW = strength_HW**2 / ndimage.maximum_filter(strength_HW, 3, mode="constant")
    threshold = max(1.5 * strength_HW.mean(), 0.1)
    expected_HW = thinned_HW**2 / (thinned_HW**2 + threshold**2)
    edge_HW = SobelDetector()(torch.from_numpy(image_CHW)[None])[0, 0].numpy()
    assert expected_HW.max() > 0.5
    np.testing.assert_allclose(edge_HW, expected_HW, rtol=0, atol=1e-9)


def test_sobel_marks_a_step_where_it_is_and_nothing_else() -> None:
    image_BCHW = torch.full((2, 3, 64, 64), -0.5)
    image_BCHW[0, :, :, 32:] = 0.5
    edge_B1HW = SobelDetector()(image_BCHW)
    assert edge_B1HW[1].max() < 1e-6
    strong = (edge_B1HW[0, 0, 30] > 0.5).nonzero().flatten().tolist()
    assert strong == [29, 30, 31, 32, 33, 34]
    assert edge_B1HW[0, 0, :, :16].max() < 0.01
    turned_B1HW = SobelDetector()(image_BCHW.rot90(1, (2, 3)))
    torch.testing.assert_close(turned_B1HW, edge_B1HW.rot90(1, (2, 3)), rtol=0, atol=1e-5)
