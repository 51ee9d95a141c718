from __future__ import annotations

import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from igll.compat import prepare_torchvision
from igll.errors import InputError
from igll.losses import PerceptualLoss, StyleLoss, VGGFeatures

# Index of every ReLU in torchvision's numbering, counted off its printed models.
VGG16 = {
    "relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11, "relu3_3": 15,
    "relu4_1": 18, "relu4_3": 22, "relu5_1": 25, "relu5_2": 27, "relu5_3": 29,
}  # fmt: skip
VGG19 = {
    "relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11, "relu3_3": 15, "relu3_4": 17,
    "relu4_1": 20, "relu4_3": 24, "relu5_1": 29, "relu5_2": 31, "relu5_4": 35,
}  # fmt: skip
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)


def _torchvision_stack(letter: str) -> nn.Sequential:
    prepare_torchvision()
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs[letter])


def _reference(stack: nn.Sequential, image: Tensor, statistics: tuple, indices: dict[str, int]) -> dict:
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in statistics)
    activation = torch.from_numpy(((image.numpy().astype(float) + 1) / 2 - mean) / std).float()
    outputs = []
    for layer in stack:
        activation = layer(activation.clone())
        outputs.append(activation)
    return {name: outputs[index] for name, index in indices.items()}


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        assert (found[name] - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name


@pytest.fixture(scope="module")
def vgg16_stack() -> nn.Sequential:
    torch.manual_seed(0)
    return _torchvision_stack("D").requires_grad_(False)


@pytest.fixture(scope="module")
def vgg16_file(vgg16_stack: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    state = {f"features.{name}": value for name, value in vgg16_stack.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.full((4, 4), torch.nan)}, path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _noise(channels: int = 3, side: int = 32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, channels, side, side))).float()


def test_vgg19_equals_torchvisions_layers(cache: Path) -> None:
    torch.manual_seed(0)
    stack = _torchvision_stack("E").requires_grad_(False)
    state = {f"features.{name}": value for name, value in stack.state_dict().items()}
    torch.save(state, cache / "vgg19-dcbb9e9d.pth")
    features = VGGFeatures()  # VGG19 from the cache is the default
    assert features.normalisation == "imagenet"
    image = _noise()
    _assert_equal(features(image, VGG19), _reference(stack, image, IMAGENET, VGG19))


UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SIGNED = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("normalisation", "statistics"),
    [("imagenet", IMAGENET), ("caffe", CAFFE), ("unit", UNIT), ("signed", SIGNED)],
)
def test_vgg16_equals_torchvisions_layers(
    vgg16_file: Path, vgg16_stack: nn.Sequential, normalisation: str, statistics: tuple
) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation=normalisation)
    image = _noise()
    _assert_equal(features(image, VGG16), _reference(vgg16_stack, image, statistics, VGG16))


def test_published_vgg16_on_a_photograph(shared: Path) -> None:
    from safetensors.torch import load_file

    path = shared / "weights" / "vgg16_features_fp16.safetensors"
    features = VGGFeatures("vgg16", path)
    assert features.normalisation == "caffe"  # recognised, though rounded to 16 bits and renamed

    stack = _torchvision_stack("D").requires_grad_(False)
    state = {name.removeprefix("features."): value.float() for name, value in load_file(path).items()}
    stack.load_state_dict(state)
    scene = sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))[0]
    pixels = np.asarray(Image.open(scene).convert("RGB"))[:128, :128]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    _assert_equal(features(image, VGG16), _reference(stack, image, CAFFE, VGG16))


@pytest.mark.parametrize(
    ("row", "expected"), [((-0.5537, 0.1427, 0.5290), "imagenet"), ((0.4800, 0.4084, -0.0651), "caffe")]
)
def test_published_files_are_known_by_their_first_weights(
    vgg16_file: Path, tmp_path: Path, row: tuple[float, ...], expected: str
) -> None:
    state = torch.load(vgg16_file, weights_only=True)
    state["features.0.weight"][0, 0, 0] = torch.tensor(row)
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "renamed.pth")
    assert VGGFeatures("vgg16", tmp_path / "renamed.pth").normalisation == expected


def test_unknown_weights_need_a_normalisation(vgg16_file: Path) -> None:
    with pytest.raises(InputError, match=r"own\.pth.*losses\.vgg_normalisation"):
        VGGFeatures("vgg16", vgg16_file)


def test_the_cache_is_searched_for_either_vgg16(vgg16_file: Path, cache: Path) -> None:
    shutil.copy(vgg16_file, cache / "vgg16-397923af.pth")
    assert VGGFeatures("vgg16").normalisation == "imagenet"
    shutil.copy(vgg16_file, cache / "vgg16_features-amdegroot-88682ab5.pth")
    assert VGGFeatures("vgg16").normalisation == "caffe"


def test_missing_weights_say_what_to_do(cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        VGGFeatures("vgg19")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "vgg19-dcbb9e9d.pth", str(cache), "losses.vgg_weights", "losses.backbone", "allow_download",
        "losses.perceptual=0 losses.style=0",
    ):  # fmt: skip
        assert part in message


def test_download_is_checked_and_only_on_request(
    vgg16_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(url: str, folder: str, **options: object) -> None:
        calls.append((url, options))
        shutil.copy(vgg16_file, Path(folder) / url.rpartition("/")[2])

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(InputError):
        VGGFeatures("vgg16")
    assert not calls
    assert VGGFeatures("vgg16", allow_download=True).normalisation == "caffe"
    VGGFeatures("vgg16", allow_download=True)  # by now in the cache
    ((url, options),) = calls
    assert url == "https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth"
    assert options["check_hash"]
    assert options["weights_only"]


def test_failed_download_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(InputError, match=r"vgg19-dcbb9e9d\.pth: download failed .*no route") as caught:
        VGGFeatures("vgg19", allow_download=True)
    assert "\n" not in str(caught.value)


def test_unfitting_files_are_refused(vgg16_file: Path, tmp_path: Path) -> None:
    def refused(path: Path, reason: str, backbone: str = "vgg16") -> None:
        with pytest.raises(InputError, match=reason) as caught:
            VGGFeatures(backbone, path, normalisation="imagenet")
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "absent.pth", "no such file")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    refused(tmp_path / "page.pth", "cannot be read")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    refused(tmp_path / "page.safetensors", "cannot be read")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "holds no state dict")

    refused(vgg16_file, "is missing, so this is not vgg19|has shape", backbone="vgg19")
    state = torch.load(vgg16_file, weights_only=True)
    torch.save({**state, "features.16.weight": torch.zeros(1)}, tmp_path / "more.pth")
    refused(tmp_path / "more.pth", r"features\.16\.weight is not a part of vgg16")
    state["features.10.weight"] = torch.zeros(256, 128, 1, 1)
    torch.save(state, tmp_path / "shape.pth")
    refused(tmp_path / "shape.pth", r"features\.10\.weight has shape \(256, 128, 1, 1\)")


def test_any_number_of_bands(vgg16_file: Path) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")
    image = _noise(7, 16)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 4:], mask[1, ..., :9] = 1, 1
    seen = {
        1: [[0, 0, 0]],
        2: [[0, 1, 1]],
        4: [[0, 1, 2], [1, 2, 3]],
        5: [[0, 1, 2], [2, 3, 4]],
        6: [[0, 1, 2], [3, 4, 5]],
        7: [[0, 1, 2], [3, 4, 5], [4, 5, 6]],
    }
    for bands, groups in seen.items():
        for hole in (None, mask):
            found = features(image[:, :bands], ["relu3_1"], hole)["relu3_1"]
            alone = [features(image[:, group], ["relu3_1"], hole)["relu3_1"] for group in groups]
            torch.testing.assert_close(found, torch.cat(alone))


def test_losses_on_many_bands_are_the_mean_over_the_groups(vgg16_file: Path) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")
    found, wanted = _noise(4), _noise(4).flip(3)
    layers = ["relu1_1", "relu2_1", "relu2_2", "relu3_3"]
    for loss in (PerceptualLoss(layers=layers), StyleLoss(layers=layers)):
        groups = [
            loss(
                features(found[:, start : start + 3], layers), features(wanted[:, start : start + 3], layers)
            )
            for start in (0, 1)
        ]
        together = loss(features(found, layers), features(wanted, layers))
        torch.testing.assert_close(together, torch.stack(groups).mean())


def test_frozen_but_transparent_to_gradients_and_full_precision(vgg16_file: Path) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")
    assert not any(parameter.requires_grad for parameter in features.parameters())
    image = _noise(3, 32)
    plain = features(image, ["relu4_1"])["relu4_1"]
    image.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = features(image, ["relu4_1"])["relu4_1"]
    assert torch.equal(cast, plain)
    cast.sum().backward()
    assert image.grad.abs().max() > 0


@pytest.mark.parametrize(("normalisation", "shift", "scale"), [("unit", 1.0, 0.5), ("signed", 0.0, 1.0)])
def test_unit_and_signed_feed_images_as_they_are(
    vgg16_file: Path, vgg16_stack: nn.Sequential, normalisation: str, shift: float, scale: float
) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation=normalisation)
    image = _noise()
    expected = vgg16_stack[:2]((image + shift) * scale)
    assert torch.allclose(features(image, ["relu1_1"])["relu1_1"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("normalisation", "statistics"), [("imagenet", IMAGENET), ("signed", SIGNED), ("unit", UNIT)]
)
def test_outside_the_mask_the_net_sees_zeros(
    vgg16_file: Path, vgg16_stack: nn.Sequential, normalisation: str, statistics: tuple
) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation=normalisation)
    image, mask = _noise(), torch.zeros(2, 1, 32, 32)
    mask[0, :, 4:20, 8:30] = 1
    mask[1, :, 16:] = 1
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
    shown = torch.where(mask == 1, ((image + 1) / 2 - mean) / std, 0.0)
    activation = shown
    for layer in vgg16_stack[:19]:
        activation = layer(activation.clone())
    found = features(image, ["relu4_1"], mask)["relu4_1"]
    assert (found - activation).abs().max() <= 1e-4 * activation.abs().max()
    # What stands outside has no say, and gets no gradient.
    other = torch.where(mask == 1, image, -image).requires_grad_()
    again = features(other, ["relu4_1"], mask)["relu4_1"]
    assert torch.equal(again, found)
    again.sum().backward()
    assert other.grad is not None and not other.grad[(mask == 0).expand_as(other)].any() and other.grad.any()


def test_layers_that_a_backbone_does_not_have_are_refused_by_key(vgg16_file: Path) -> None:
    features = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")
    features.check_layers("style_layers", ["relu3_3", "relu5_1"])
    with pytest.raises(InputError, match=r"losses\.style_layers: vgg16 has no relu3_4; .*losses\.backbone"):
        features.check_layers("style_layers", ["relu2_2", "relu3_4"])


def test_of_no_layers_nothing_is_computed(vgg16_file: Path) -> None:
    assert VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")(_noise(), []) == {}


def test_in_bfloat16_features_and_gradients_stay_close(vgg16_file: Path) -> None:
    image = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet")
    quick = VGGFeatures("vgg16", vgg16_file, normalisation="imagenet", amp=True)
    gradients = []
    for network in (exact, quick):
        leaf = image.clone().requires_grad_(True)
        found = network(leaf, VGG16)
        assert all(value.dtype == torch.float32 for value in found.values())
        found["relu3_3"].square().mean().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    with torch.no_grad():
        wanted, found = exact(image, VGG16), quick(image, VGG16)
    for name, value in wanted.items():
        error = (found[name] - value).norm() / value.norm()
        assert 0 < error < 0.02, name
    # Units near zero fall on either side of it, which a gradient feels more than the features do.
    assert (gradients[1] - gradients[0]).norm() < 0.2 * gradients[0].norm()
