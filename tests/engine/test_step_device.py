"""A training step on a device whose values nobody can see: what it would mix up or wait for on a GPU."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igll.engine.objectives import Batch, Objectives
from igll.engine.state import build_state
from igll.engine.step import train_step
from igll.models.discriminator import hole_rectangles

META = torch.device("meta")
# What other networks than IGLL's have no choice of.
PLAIN = {"structure_prior": "none", "prefill": "none", "residual": False, "position_grid": 64}


class OneDevice(TorchDispatchMode):
    """Refuses what CUDA's operators refuse: the host's tensors, but for scalars, beside the device's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        devices = {value.device.type for value in given if value.dim()}
        if name != "copy_" and len(devices) > 1:
            raise AssertionError(f"{name} of {[(value.device.type, *value.shape) for value in given]}")
        return func(*args, **kwargs)


@pytest.fixture
def without_cast(monkeypatch):
    """Autocast and fused optimisers know no meta device."""
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda _: None)


@pytest.mark.usefixtures("without_cast")
@pytest.mark.parametrize(
    "sections",
    [
        {
            "losses": {"adversarial_form": "relativistic", "feature_matching": 1},
            "train": {"clip_gradient": 1},
        },
        {"losses": {"adversarial_form": "wasserstein"}, "discriminator": {"norm": "none"}},
        {"discriminator": {"name": "critic"}},
        {"model": {"structure_prior": "oracle", "prefill": "none", "residual": False}},
        {"model": {"structure_prior": "none", "prefill": "harmonic", "skips": True, "heads": 3}},
        {"model": {"gam": "vanilla", "ffsm": "vanilla", "prefill": "mean"}},
        {"model": {"select": "best"}},
        *({"model": {"name": name, **PLAIN}} for name in ("dmfn", "hifill", "han", "hint")),
    ],
    ids=str,
)
def test_a_step_mixes_no_devices_and_looks_at_no_value(small, sections: dict[str, Any]):
    config = small(**sections)
    mask_B1HW = torch.zeros(2, 1, 32, 32)
    mask_B1HW[..., 8:24, 8:24] = 1
    objectives = Objectives(config.losses, config.model.structure_prior == "learned", 32)
    with META:
        state = build_state(config, META)
        image_BCHW, edge_B1HW = torch.empty(2, 3, 32, 32), torch.empty(2, 1, 32, 32)
    state.watch.immediate = False
    layout = state.generator.layout(mask_B1HW, objectives.whole_frame)
    batch = Batch(
        image_BCHW,
        image_BCHW.clone(),
        mask_B1HW.to(META),
        edge_B1HW,
        hole_rectangles(mask_B1HW),
        [0, 1],
        layout and layout.to(META),
    )
    with OneDevice():
        terms = train_step(state, objectives.to(META), config, batch, range(2))
    assert {value.device for value in terms.values()} == {META}
    assert "gradient/discriminator" in terms
