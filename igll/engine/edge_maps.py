"""Making the edge maps of a dataset's images before they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from igll.config import Config
from igll.data.bands import with_nearest_known
from igll.data.datasets import InpaintingDataset
from igll.data.edge_cache import EdgeCache
from igll.data.sources import Scene
from igll.distributed import is_writer, own_part, wait_for_all
from igll.engine.devices import full_float32
from igll.errors import InputError
from igll.models.edges import EdgeDetector, build_edge_detector


def edges_needed(config: Config, training: bool) -> bool:
    """Whether ground-truth edge maps are used at all.

    ``oracle`` and ``reference`` feed them to the generator; ``learned`` and the discriminator need them
    as target and condition, in training alone.
    """
    prior = config.model.structure_prior
    if prior == "learned":
        judged = (config.losses.adversarial or config.losses.feature_matching) and config.discriminator.edge
        return training and bool(config.losses.edge or judged)
    return prior != "none"


def sees_ground_truth_edges(config: Config) -> bool:
    """Whether the generator is fed edges of the complete ground truth: to be labelled "oracle edges".

    Prior ``reference`` is too, unless the dataset brings images of another date.
    """
    prior = config.model.structure_prior
    return prior == "oracle" or (prior == "reference" and not config.data.reference_root)


def open_edge_cache(config: Config) -> tuple[EdgeCache, EdgeDetector]:
    """The configured detector, and the cache of its maps.

    Raises:
        InputError: If the detector's weights are missing or wrong.
    """
    detector = build_edge_detector(config.edges.detector, config.edges.weights)
    return EdgeCache(config.edges.cache, detector.fingerprint), detector


@torch.inference_mode()
@full_float32()  # the cache serves every device
def prepare_edge_maps(
    dataset: InpaintingDataset,
    cache: EdgeCache,
    detector: EdgeDetector,
    device: torch.device,
    pass_over: bool = False,
) -> int:
    """Detect and store the edge map of every image of a dataset that the cache does not have yet.

    Reads every image, so a damaged or too small one is named here, before training starts. Maps are
    kept under the image as it was read, whatever stands in for its missing pixels. Processes share the
    images, and go on together when all maps are there.

    Args:
        dataset: The images.
        cache: Where maps are kept.
        detector: Makes them.
        device: Where.
        pass_over: Leave an image that cannot be used to whoever needs it.

    Returns:
        Number of maps made here.

    Raises:
        InputError: An image cannot be used, unless such are passed over.
    """

    def read(index: int) -> Scene | None:
        try:
            return dataset.checked_scene(index)
        except InputError:
            if pass_over:
                return None
            raise

    detector = detector.to(device)
    made = 0
    with ThreadPoolExecutor(2) as readers:  # decoding runs ahead of detection, a few images at a time
        own = own_part(len(dataset))
        starts = range(own.start, own.stop, 16)
        for start in tqdm(starts, desc="edge maps", unit="×16", leave=False, disable=not is_writer()):
            for scene in readers.map(read, range(start, min(start + 16, own.stop))):
                if scene is None or cache.path(scene.edge_source_HWC).exists():
                    continue
                image_CHW = with_nearest_known(scene.edge_source_HWC).transpose(2, 0, 1)
                signed = torch.from_numpy(np.ascontiguousarray(image_CHW)) * 2 - 1
                edge_HW = detector(signed[None].to(device))[0, 0].float().cpu().numpy()
                cache.save(scene.edge_source_HWC, edge_HW)
                made += 1
    wait_for_all()
    return made
