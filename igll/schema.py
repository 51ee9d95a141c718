"""The one typed schema behind every YAML file and every ``key.sub=value`` override."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


def _ratio_range(value: list[float]) -> list[float]:
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError("a range is two numbers, the smaller first")
    return value


def _stretch(value: list[float]) -> list[float]:
    if len(value) != 2 or value[0] >= value[1]:
        raise ValueError("a stretch is the two raw values that become 0 and 1, the smaller first")
    return value


def _device_name(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("use auto, cpu, cuda or a numbered device such as cuda:1")
    return value


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_holds_truth, value)))


def _takes_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_takes_numbers, get_args(annotation)))


Ratio = Annotated[float, Field(gt=0, le=0.95)]
RatioRange = Annotated[list[Ratio], AfterValidator(_ratio_range)]


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts with true and false: pydantic would read them as 1 and 0.
        if _holds_truth(value) and _takes_numbers(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("true and false are not numbers")
        return value


# Settings that only IGLL's own generator has.
_IGLL_ONLY = (
    "structure_prior", "prefill", "residual", "skips", "exemplar", "heads", "position", "position_grid",
    "select", "gam", "ffsm", "score_scale",
)  # fmt: skip


class Published(NamedTuple):
    """What a network's paper settles on.

    Attributes:
        width: Base width.
        blocks: Blocks per level, or None where the design has nothing to repeat.
    """

    width: int
    blocks: tuple[int, ...] | None = None


PUBLISHED = {
    "igll": Published(32),
    "dmfn": Published(64, (8,)),
    "dmfn24": Published(64, (24,)),
    "hifill": Published(32),
    "han": Published(64, (1, 2, 4, 8)),
    "hint": Published(48, (4, 6, 6, 8)),
}


class ModelConfig(Section):
    """The generator: IGLL's, or a peer's by its name."""

    name: Literal["igll", "dmfn", "dmfn24", "hifill", "han", "hint"] = "igll"
    width: Annotated[int, Field(ge=4, le=256, multiple_of=4)] | None = None
    blocks: list[Positive] | None = None
    image_channels: Annotated[int, Field(ge=1, le=64)] = 3
    structure_prior: Literal["oracle", "learned", "reference", "none"] = "oracle"
    prefill: Literal["none", "mean", "pyramid", "harmonic"] = "none"
    residual: bool = False
    skips: bool = False
    exemplar: bool = False
    heads: Annotated[int, Field(ge=1, le=16)] = 1
    position: bool = True
    position_grid: Annotated[int, Field(ge=1, le=1024)] = 64
    select: Literal["softmax", "best"] = "softmax"
    gam: Literal["gam", "vanilla"] = "gam"
    ffsm: Literal["ffsm", "vanilla"] = "ffsm"
    score_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _peers_use_no_edges(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name", "igll") != "igll":
            return {"structure_prior": "none", **values}
        return values

    @field_validator(*_IGLL_ONLY)
    @classmethod
    def _igll_alone_has_it(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("name", "igll")
        field = info.field_name or ""
        plain = "none" if field == "structure_prior" else cls.model_fields[field].default
        if name != "igll" and value != plain:
            raise ValueError(f"{name} has no such choice; leave it out, or set it to {plain}")
        return value

    @field_validator("width")
    @classmethod
    def _published_width(cls, value: int | None, info: ValidationInfo) -> int | None:
        return value or PUBLISHED[info.data.get("name", "igll")].width

    @field_validator("blocks")
    @classmethod
    def _published_blocks(cls, value: list[int] | None, info: ValidationInfo) -> list[int] | None:
        name = info.data.get("name", "igll")
        published = PUBLISHED[name].blocks
        if published is None:
            if value is not None:
                raise ValueError(f"{name} has no blocks to count; leave it out")
            return None
        if value is not None and len(value) != len(published):
            raise ValueError(f"{name} takes {len(published)} number(s), such as {list(published)}")
        return list(published) if value is None else value


class DiscriminatorConfig(Section):
    """The discriminator."""

    name: Literal["strided", "patch", "critic"] = "strided"
    width: Annotated[int, Field(ge=4, le=256)] = 64
    norm: Literal["none", "batch", "spectral"] = "spectral"
    edge: bool = True
    steps: Annotated[int, Field(ge=1, le=20)] = 1


class EdgeConfig(Section):
    """The detector that makes edge maps of ground truth and reference images."""

    detector: Literal["pidinet", "pidinet_small", "pidinet_tiny", "sobel"] = "pidinet"
    weights: str | None = None
    cache: str | None = None


class DataConfig(Section):
    """Which images."""

    name: Literal["aid", "rice1", "rice2", "clearview", "folder", "synthetic"] = "aid"
    root: str | None = None
    val_root: str | None = None
    reference_root: str | None = None
    stretch: Annotated[list[float], AfterValidator(_stretch)] | None = None
    use: Literal["label", "pairs"] = "label"
    noise: Literal["salt_pepper", "slc_off", "cloud"] = "cloud"
    crop_size: Annotated[int, Field(ge=16, le=4096)] = 256
    test_crop: Literal["paper", "center"] = "paper"
    augment: bool = True
    split_seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    synthetic_images: Annotated[int, Field(ge=5, le=100_000)] = 160
    limit: Positive | None = None
    test_limit: Positive | None = None
    workers: Annotated[int, Field(ge=0, le=128)] = 2
    cache_mb: Annotated[int, Field(ge=0)] = 2000
    scan: bool = False
    on_error: Literal["error", "skip"] = "error"


MaskFamily = Literal["square", "irregular", "cloud", "slc_off", "gaps", "salt_pepper"]


class MaskConfig(Section):
    """Which holes."""

    kind: Literal["square", "irregular", "cloud", "slc_off", "gaps", "salt_pepper", "mixed", "files"] = (
        "square"
    )
    families: Annotated[list[MaskFamily], Field(min_length=1)] = [
        "square",
        "irregular",
        "cloud",
        "slc_off",
        "gaps",
        "salt_pepper",
    ]
    ratio: Ratio | RatioRange = 0.25
    placement: Literal["paper", "center", "random"] = "paper"
    root: str | None = None
    hole: Literal["white", "black", "nonzero"] = "white"


AdversarialForm = Literal["relativistic", "non_saturating", "least_squares", "wasserstein"]
LayerName = Annotated[str, Field(pattern=r"^relu(1_[12]|2_[12]|[345]_[1234])$")]


class LossConfig(Section):
    """Weights of the losses; 0 switches one off."""

    local: Weight = 1.0
    pixel: Weight = 1.0
    log_error: Weight = 0.0
    log_error_addend: Annotated[float, Field(gt=0, le=1)] = 1e-3
    staged: Weight = 0.0
    whole: Weight = 0.0
    whole_per_hole: bool = False
    perceptual: Weight = 1.0
    perceptual_layers: Annotated[list[LayerName], Field(min_length=1)] = [
        "relu1_1",
        "relu2_1",
        "relu3_1",
        "relu4_1",
        "relu5_1",
    ]
    perceptual_by_channels: bool = False
    style: Weight = 5.0
    style_layers: Annotated[list[LayerName], Field(min_length=1)] = [
        "relu2_2",
        "relu3_3",
        "relu4_3",
        "relu5_2",
    ]
    style_of: Literal["frame", "hole"] = "frame"
    adversarial: Weight = 0.03
    adversarial_form: AdversarialForm = "relativistic"
    gradient_penalty: Weight = 10.0
    judged: Literal["composite", "prediction"] = "composite"
    svd: Weight = 1.0
    svd_discriminator: bool = True
    svd_leading: Annotated[int, Field(ge=1, le=256)] = 16
    svd_patch: Annotated[int, Field(ge=0)] = 0
    svd_normalise: bool = False
    edge: Weight = 1.0
    backbone: Literal["vgg19", "vgg16"] = "vgg19"
    vgg_weights: str | None = None
    vgg_amp: bool = False
    vgg_normalisation: Literal["auto", "imagenet", "caffe", "unit", "signed"] = "auto"
    feature_scale: Literal["none", "unit"] = "none"
    self_guided: Weight = 0.0
    alignment: Weight = 0.0
    feature_matching: Weight = 0.0
    feature_matching_of: Literal["all", "local"] = "all"


class TrainConfig(Section):
    """The training loop."""

    init: str | None = None
    batch_size: Positive = 6
    epochs: Positive = 40
    max_steps: Positive | None = None
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-4
    discriminator_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: Weight = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.5,
        0.9,
    ]
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    lr_milestones: list[Positive] = [2_000, 40_000]
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip_gradient: Weight = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    amp: bool = True
    amp_cpu: bool = False
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    deterministic: bool = False
    log_every: Positive = 20
    sheet_every: Positive = 1_000
    eval_every: Positive = 1_000
    eval_images: Positive = 64
    checkpoint_every: Positive = 1_000
    keep_every: Positive | None = None
    keep: Positive = 3


ClassicalName = Literal[
    "mean_of_known",
    "nearest",
    "fill_nodata",
    "harmonic",
    "telea",
    "navier_stokes",
    "biharmonic",
    "patch_match",
    "halrtc",
    "tensor_nuclear_norm",
]


class EvalConfig(Section):
    """The evaluation."""

    batch_size: Positive = 8
    weights: Literal["ema", "raw"] = "ema"
    amp: bool = False
    metrics: list[
        Literal["psnr", "psnr_hole", "l1_hole", "ssim", "ms_ssim", "lpips", "fid", "kid", "fd_effnet_lite0"]
    ] = ["psnr", "psnr_hole", "ssim", "ms_ssim", "lpips", "fid", "kid"]
    lpips_net: Literal["alex", "vgg", "squeeze"] = "alex"
    fd_weights: str | None = None
    floors: list[ClassicalName] = ["mean_of_known"]
    pictures: Annotated[int, Field(ge=0, le=64)] = 8


class Config(Section):
    """Everything that a run depends on."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Annotated[str, AfterValidator(_device_name)] = "auto"
    allow_download: bool = False
    model: ModelConfig = ModelConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    edges: EdgeConfig = EdgeConfig()
    data: DataConfig = DataConfig()
    mask: MaskConfig = MaskConfig()
    losses: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
