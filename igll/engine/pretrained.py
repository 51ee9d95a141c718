"""A folder of shared weights in the layout of a Hugging Face repo."""

from __future__ import annotations

from pathlib import Path

from igll.config import Config
from igll.engine.hub import MODEL_FILE
from igll.engine.shared_weights import save_shared_weights, shared_settings
from igll.engine.trained import Training
from igll.models import InpaintingNetwork
from igll.registry import TITLES
from igll.report.files import write_json, write_text

_CARD = """\
---
library_name: igll
pipeline_tag: image-to-image
tags:
- igll
- image-inpainting
- remote-sensing
---

# {title} for remote-sensing image inpainting

Fills holes (clouds, sensor gaps, seams) in images of {channels} channel(s). Structure prior: `{prior}`;
trained for {steps:,} steps. Filled pixels are plausible, not measured.

```python
import igll

model = igll.load("OWNER/NAME")  # pip install "igll[hub]"; pin it with revision= and sha256=
filled = model.inpaint(image, mask)  # mask 1 = missing; known pixels come back bit for bit
```

`config.json` holds the whole configuration of the training, `model.safetensors` a copy of it.
{notes}"""


def write_pretrained(folder: Path, generator: InpaintingNetwork, config: Config, training: Training) -> None:
    """Write ``model.safetensors``, ``config.json`` and, where there is none, the model card ``README.md``.

    Raises:
        OutputError: A file cannot be written.
    """
    # Weights are kept as they are computed with, so that they come back bit for bit.
    save_shared_weights(
        folder / MODEL_FILE, generator, config, training.step, "float32", training.averaged, training.notes
    )
    write_json(folder / "config.json", shared_settings(config))
    card = folder / "README.md"
    if not card.exists():
        write_text(card, _card(config, training))


def _card(config: Config, training: Training) -> str:
    notes = "".join(f"- {name}: {text}\n" for name, text in training.notes.items())
    return _CARD.format(
        title=TITLES[config.model.name],
        channels=config.model.image_channels,
        prior=config.model.structure_prior,
        steps=training.step,
        notes=f"\n{notes}" if notes else "",
    )
