"""LPIPS, the learned perceptual distance of Zhang et al. (2018), version 0.1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from igll.compat import prepare_torchvision
from igll.errors import InputError
from igll.metrics.image import check_images, require_side
from igll.metrics.layout import for_convolutions, place
from igll.metrics.names import MetricUnavailableError
from igll.metrics.weights import cached_weights, read_weights

LPIPS_NETS: Final = {
    "alex": "AlexNet_Weights",
    "vgg": "VGG16_Weights",
    "squeeze": "SqueezeNet1_1_Weights",
}
"""Trunks, with the torchvision weights each of them needs."""


class PerceptualDistance:
    """LPIPS between batches of RGB images, one value per image; lower is more alike.

    Args:
        net: Trunk: ``alex`` (what most papers report), ``vgg`` or ``squeeze``. Values of different
            trunks cannot be compared.
        allow_download: Fetch the trunk's weights if torch hub's cache does not have them.
        device: Where the network runs.

    Raises:
        InputError: Unknown trunk.
        MetricUnavailableError: The trunk's weights are missing or damaged; names the file.
    """

    def __init__(
        self, net: str = "alex", allow_download: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        if net not in LPIPS_NETS:
            raise InputError(f"lpips_net: '{net}' is not known; choose one of {', '.join(LPIPS_NETS)}")
        prepare_torchvision()
        import torchvision

        weights = getattr(torchvision.models, LPIPS_NETS[net]).IMAGENET1K_V1
        path = cached_weights(weights.url, allow_download)
        self._network: Any = place(_with_trunk(net, path.name, read_weights(path)), device)

    @torch.no_grad()
    def __call__(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """The distance of each pair.

        Args:
            prediction_BCHW: (B, 3, H, W), float in [0, 1]; H and W at least 32.
            target_BCHW: The same.

        Returns:
            (B,) distances, 0 for equal images.

        Raises:
            InputError: Shapes differ or values leave [0, 1].
            MetricUnavailableError: The images are too small or not RGB.
        """
        check_images(prediction_BCHW, target_BCHW)
        return self.distance(self.features(prediction_BCHW), self.features(target_BCHW))

    @torch.no_grad()
    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """What the trunk sees in images, of unit length at every pixel, layer by layer.

        Args:
            image_BCHW: (B, 3, H, W), float in [0, 1]; H and W at least 32.

        Raises:
            MetricUnavailableError: The images are too small or not RGB.
        """
        import lpips

        require_side("lpips", image_BCHW)
        if image_BCHW.shape[1] != 3:
            raise MetricUnavailableError(f"needs RGB images, these have {image_BCHW.shape[1]} channels")
        signed_BCHW = 2 * for_convolutions(image_BCHW.float()) - 1
        layers = self._network.net(self._network.scaling_layer(signed_BCHW))
        return [lpips.normalize_tensor(layer_BCHW) for layer_BCHW in layers]

    @torch.no_grad()
    def distance(self, prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """The distance of each pair, of what :meth:`features` gave of both; (B,).

        As the package's own forward pass, which would run the trunk on the target once per prediction.
        """
        layers = zip(self._network.lins, prediction, target, strict=True)
        parts = [weigh((one - other) ** 2).mean((2, 3)) for weigh, one, other in layers]
        total_B1: Tensor = sum(parts[1:], parts[0])
        return total_B1.flatten()


def _with_trunk(net: str, file_name: str, state: Mapping[str, Tensor]) -> torch.nn.Module:
    """The package's network, its trunk filled from ``state`` instead of an unchecked download."""
    import lpips

    # The random trunk that is overwritten below must not move anyone's random numbers.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the package uses torchvision's older signature
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        # The package regroups torchvision's `features.N.x` as `sliceK.N.x`.
        trunk = {name: state["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
        network.net.load_state_dict(trunk)
    except (KeyError, RuntimeError) as error:
        raise MetricUnavailableError(f"{file_name} does not hold the weights its name says") from error
    return network.requires_grad_(False).eval()
