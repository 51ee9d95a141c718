# The source of tutorial.ipynb; `python scripts/tutorial.py` makes the notebook of it and runs every cell.

# %% [markdown]
# # Filling clouds and gaps with igll
#
# Load trained weights, fill a hole, look, measure, fit the weights to your own images, save, and fill a
# GeoTIFF. The images are scenes that `igll` draws itself, so that nothing has to be fetched and everyone
# sees the same; where a folder of yours can stand in for them, the text says so.
#
# **What stands in a hole afterwards is plausible, not measured.** A filled picture is good for a map's
# background, a mosaic without seams or a classifier that cannot bear gaps. It is no observation: do not
# read the state of a field under a cloud off it.
#
# It needs `pip install "igll[geo]"` (the last section alone uses `geo`) and about two minutes on a
# processor.

# %% tags=["parameters"]
weights = "igll-small"  # the weights that ship with igll, by name; igll.load() takes the same
steps = 40  # of fine-tuning
scenes = 24  # that it learns from; half as many are held back to measure

# %% [markdown]
# ## Load
#
# `igll.load()` takes the weights that come with the package; with a path it takes a checkpoint of your own.

# %%
import json
import os
import shlex
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import igll
from igll import cli
from igll.data.masks import make_mask
from igll.data.synthetic import render_scene
from igll.report.figures import paint_hole, picture_sheet

model = igll.load()
network = model.config.model
print(f"{network.name}, width {network.width}, bands: {network.image_channels}")
print(f"structure prior: {network.structure_prior}")

# %% [markdown]
# The prior `learned` means that the network completes the edges inside a hole by itself. It is what a real
# cloud needs: with the paper's own prior, `oracle`, the network is shown the edges of the ground that the
# cloud hides.

# %% [markdown]
# ## Fill
#
# A scene, and a mask in the shape of a cloud over a quarter of it. A mask is 1 (or True) where pixels are
# missing, everywhere in `igll`. Your own would come from a quality band or a cloud detector;
# `np.asarray(Image.open(…))` or rasterio's `read` give the image.

# %%
truth = render_scene(seed=3, size=256, kind="farmland")  # uint8, (256, 256, 3)
cloud = make_mask("cloud", 256, 256, ratio=0.25, rng=np.random.default_rng(3))  # bool, (256, 256)

image = truth.copy()
image[cloud] = 255  # whatever stands in the hole is not looked at
filled = model.inpaint(image, cloud)

assert filled.shape == image.shape and filled.dtype == image.dtype
assert (filled[~cloud] == image[~cloud]).all(), "known pixels come back bit for bit"
print(f"{cloud.sum()} of {cloud.size} pixels were filled, {(~cloud).sum()} are as they were, bit for bit")

# %% [markdown]
# ## Look
#
# `inpaint` takes and returns NumPy arrays, Pillow images or torch tensors, of the type and size that they
# had.

# %%
made_up = np.repeat(cloud[..., None], 3, axis=2).astype(np.uint8) * 255
picture_sheet(
    [[paint_hole(image, cloud), filled, made_up, truth]],
    ["before", "after", "where it was filled", "truth"],
    [""],
    cell=256,
    caption="White in the third picture: made-up pixels. Keep such a mask beside every filled image.",
)

# %% [markdown]
# The filling joins the colours around it. It cannot know what lay under the cloud: small things such as
# houses, cars or the rows of a field do not come back, and where something stands there instead, it is
# invented.

# %% [markdown]
# ## Measure
#
# Where the truth is known, a filling can be compared with it, and with two that need no training: the
# **mean of the known pixels**, and a **harmonic membrane**, a surface that is stretched over the hole's rim
# like a drumhead. The membrane is the one to beat: it is smooth, and most ground is.
#
# Two folders of pictures, one to learn from later and one that is held back. Put your own folders here: any
# mix of PNG, JPEG and TIFF will do.

# %%
temporary = tempfile.TemporaryDirectory()  # everything from here on is written there, and gone in the end
os.chdir(temporary.name)
for folder, count, first_seed in (("learn", scenes, 1000), ("held_back", scenes // 2, 2000)):
    Path(folder).mkdir()
    for number in range(count):
        picture = render_scene(first_seed + number, size=128, kind="farmland")
        Image.fromarray(picture).save(f"{folder}/{number:03d}.png")

# %% [markdown]
# One file says which images, which holes and how to train; all keys are explained in
# [configuration.md](configuration.md). The cell below writes it, with the `model` section of the weights.

# %%
settings = {
    "device": "cpu",
    "model": network.model_dump(),
    "edges": {"detector": "sobel", "cache": "edge_maps"},
    "data": {
        "name": "folder",
        "root": "learn",
        "val_root": "held_back",
        "crop_size": 64,
        "test_crop": "center",
        "workers": 0,
    },
    "mask": {"kind": "cloud", "ratio": [0.15, 0.35]},
    "losses": {  # those that need no further weights
        "log_error": 0.2,
        "local": 0.2,
        "pixel": 0,
        "perceptual": 0,
        "style": 0,
        "adversarial": 0,
        "svd_leading": 8,
        "svd_normalise": True,
        "edge": 0.2,
    },
    "train": {
        "init": weights,  # begin where these weights are
        "max_steps": steps,
        "epochs": 1000,
        "batch_size": 4,
        "lr": 1e-4,
        "betas": [0.9, 0.99],
        "schedule": "cosine",
        "ema_decay": 0.9,
        "eval_every": 20,
        "eval_images": 8,
    },
    "eval": {"metrics": ["psnr_hole", "ssim"], "floors": ["mean_of_known", "harmonic"], "pictures": 3},
}
Path("farmland.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def terminal(line: str) -> None:
    """Run one of igll's commands as a terminal would, but without starting another Python."""
    name, *arguments = shlex.split(line)
    command = {"igll-train": cli.train, "igll-eval": cli.evaluate, "igll-infer": cli.infer}[name]
    try:
        command(arguments)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}: {line}") from None


# %% [markdown]
# `igll-eval` fills every image of the held-back folder, each with its own hole, which is the same in every
# evaluation. `psnr_hole` is the PSNR of the filled pixels alone, in dB, larger is better.

# %%
terminal(
    f"igll-eval --config farmland.yaml --checkpoint {shlex.quote(weights)} --out before data.crop_size=128"
)

# %%
Image.open("before/pictures.png")

# %% [markdown]
# Read the first two rows before the third: a network that does not beat the membrane on *your* ground is
# not worth its time there. A dozen drawn scenes say how to measure, not how good the weights are; for that
# see [results.md](results.md). And these numbers exist only because the holes were made by us. Under a real
# cloud there is no truth to compare with, and a high PSNR elsewhere makes a filled pixel likelier, not
# measured.

# %% [markdown]
# ## Fine-tune
#
# `train.init` in the file above starts a new run from trained weights. In a terminal it is this very line;
# with `--resume` behind it, an interrupted run goes on.

# %%
terminal("igll-train --config farmland.yaml --out runs/farmland")

# %% [markdown]
# Then the same measurement again, and the two of them image by image. `igll-eval compare` gives a 95 %
# interval of the mean difference; where it holds 0, the difference may as well be chance.

# %%
terminal(
    "igll-eval --config farmland.yaml --checkpoint runs/farmland/checkpoints/last.pt "
    "--out after data.crop_size=128"
)
terminal("igll-eval compare before after --out comparison")

# %%
found = json.loads(Path("comparison/comparison.json").read_text())["metrics"]["psnr_hole"]
low, high = found["low"], found["high"]
print(f"{steps} steps, in the hole: {found['difference']:+.3f} dB, 95 % interval {low:+.3f} to {high:+.3f}")
if max(abs(low), abs(high)) < 0.1:
    print("No change: whatever it is, it is less than a tenth of a dB.")
elif low <= 0 <= high:
    print("Noise: the interval holds 0, so these images cannot tell the two apart.")
else:
    print(f"The tuned weights are {'better' if low > 0 else 'worse'} on these images.")

# %% [markdown]
# A few dozen steps on two dozen pictures are a demonstration. An interval that leaves 0 out still says no
# more than that this one run helped on this kind of ground; another seed is another run. For work: hundreds
# of images, thousands of steps, a test folder that nothing was chosen by, and the harmonic membrane in the
# same table.

# %% [markdown]
# ## Save
#
# A checkpoint is loaded by its path. To hand weights on, write a folder as Hugging Face repos hold them: the
# weights with their settings as safetensors, which hold no code and no paths of your machine, and a model
# card to complete.

# %%
tuned = igll.load("runs/farmland/checkpoints/last.pt", device="cpu")
tuned.save_pretrained("farmland")
print(*sorted(path.name for path in Path("farmland").iterdir()))

again = igll.load("farmland", device="cpu")
assert (again.inpaint(image, cloud) == tuned.inpaint(image, cloud)).all()

Image.fromarray(filled).save("filled.png")
assert (np.asarray(Image.open("filled.png")) == filled).all(), "PNG is lossless, JPEG is not"

# %% [markdown]
# ## A GeoTIFF
#
# With rasterio (`pip install "igll[geo]"`). Missing is what the raster itself says: no-data here, and
# masks, quality bands and vector files by options ([scenes.md](scenes.md)). The result has the scene's
# grid, type, tags and known pixels, and beside it lies a raster that is 1 where a value was made up.

# %%
try:
    import rasterio
except ImportError:
    print("rasterio is not installed; this section is left out")
else:
    scene = np.maximum(truth, 1)  # 0 is to mean no-data
    scene[cloud] = 0
    place = rasterio.transform.from_origin(500_000, 5_400_000, 10, 10)  # 10 m pixels, UTM 33 north
    with rasterio.open(
        "scene.tif", "w", "GTiff", 256, 256, 3, "EPSG:32633", place, "uint8", nodata=0, photometric="RGB"
    ) as raster:
        raster.write(scene.transpose(2, 0, 1))

    terminal(f"igll-infer scene.tif --out filled.tif --checkpoint {shlex.quote(weights)}")

    with rasterio.open("filled.tif") as raster, rasterio.open("filled_synthetic.tif") as synthetic:
        bands, made_up = raster.read(), synthetic.read(1) == 1
        print(raster.crs, raster.transform[:6], raster.dtypes)
    assert (made_up == cloud).all()
    assert (bands[:, ~cloud] == scene.transpose(2, 0, 1)[:, ~cloud]).all()
    print(f"{made_up.sum()} pixels made up, all others as they were")
