"""The configuration schema, its files and its error messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from igll.config import Config, all_keys, build_config, load_config, save_config
from igll.errors import InputError, OutputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PAPER = [
    f"{data}_{ratio}{blind}"
    for data in ("aid", "rice1", "rice2", "clearview")
    for ratio in (10, 25, 77)
    for blind in ("", "_blind")
]


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_all_announced_configs_ship():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*PAPER, "quickstart", "igll_lite"}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_papers_protocol(name: str):
    config = load_config(CONFIGS / f"{name}.yaml")
    data, ratio = name.split("_")[:2]
    assert config.data.name == data and config.data.use == "label"
    assert (config.data.crop_size, config.data.test_crop, config.data.test_fraction) == (256, "paper", 0.2)
    assert (config.mask.kind, config.mask.placement) == ("square", "paper")
    assert config.mask.ratio == pytest.approx(int(ratio) / 100)
    assert (config.train.lr, config.train.betas) == (1e-4, [0.5, 0.9])
    assert (config.train.batch_size, config.train.epochs) == (6, 40)
    losses = config.losses
    assert (losses.perceptual, losses.style, losses.local, losses.adversarial, losses.svd) == (
        1,
        5,
        1,
        0.03,
        1,
    )
    assert losses.backbone == "vgg19" and config.model.width == 32
    blind = name.endswith("_blind")
    assert config.model.structure_prior == ("learned" if blind else "oracle")
    assert (config.model.prefill, config.model.residual) == (("harmonic", True) if blind else ("none", False))


@pytest.mark.parametrize("name", PAPER)
def test_the_head_of_each_file_says_what_its_prior_means(name: str):
    head = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").split("seed:")[0]
    assert (
        ("never an input" in head)
        if name.endswith("_blind")
        else ("ORACLE" in head and "oracle edges" in head)
    )


def test_overrides_win_and_are_typed(written):
    config = load_config(
        written("train: {batch_size: 4}\n"), ["train.batch_size=9", "mask.ratio=[0.1, 0.4]", "device=cpu"]
    )
    assert config.train.batch_size == 9
    assert config.mask.ratio == [0.1, 0.4]
    assert config.device == "cpu"


def test_scientific_notation_without_a_point_is_a_number(written):
    assert load_config(written("train: {lr: 1e-3}\n")).train.lr == 1e-3


def test_a_saved_configuration_reads_back_equal(written, tmp_path: Path):
    config = load_config(written("seed: 5\nmask: {kind: cloud, ratio: [0.2, 0.3]}\n"))
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    spelled_out = yaml.safe_load((tmp_path / "resolved.yaml").read_text())
    assert set(spelled_out["train"]) == {key.split(".")[1] for key in all_keys() if key.startswith("train.")}


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("model: {widht: 3}", [], ["my.yaml", "model.widht", "did you mean 'model.width'"]),
        ("", ["widht=3"], ["'widht=3'", "did you mean 'model.width'"]),
        ("trian: {lr: 1}", [], ["my.yaml", "'trian'", "did you mean 'train'"]),
        ("", ["train.bath_size=3"], ["train.bath_size=3", "did you mean 'train.batch_size'"]),
        (
            "train: {batch_size: 0}",
            [],
            ["my.yaml", "train.batch_size", "greater than or equal to 1", "got 0"],
        ),
        ("train: {batch_size: many}", [], ["train.batch_size", "integer", "'many'"]),
        ("", ["mask.ratio=1.5"], ["mask.ratio=1.5", "less than or equal to 0.95"]),
        ("", ["mask.ratio=[0.5, 0.1]"], ["mask.ratio", "the smaller first"]),
        ("", ["data.stretch=[9, 9]"], ["data.stretch", "the smaller first"]),
        ("", ["data.stretch=[1, 2, 3]"], ["data.stretch", "two raw values that become 0 and 1"]),
        ("", ["data.stretch=7"], ["data.stretch", "list", "got 7"]),
        ("", ["eval.amp=maybe"], ["'eval.amp=maybe': eval.amp: give true or false (got 'maybe')"]),
        ("", ["train.max_steps=true"], ["train.max_steps", "true and false are not numbers (got True)"]),
        ("seed: yes", [], ["my.yaml: seed: true and false are not numbers (got True)"]),
        (
            "",
            ["train.betas=[true, 0.9]"],
            ["train.betas", "true and false are not numbers (got [True, 0.9])"],
        ),
        ("", ["mask.ratio=false"], ["mask.ratio", "true and false are not numbers (got False)"]),
        ("", ["train.eval_images=4", "train=3"], ["'train=3': train: is a section"]),
        ("", ["train=3", "train.eval_images=4"], ["'train=3': train: is a section"]),
        ("train: 3", ["train.eval_images=4"], ["my.yaml: train: is a section"]),
        ("", ["seed=1", "seed.x=2"], ["seed: input should be a valid integer (got {'x': 2})"]),
        ("seed: 3", ["seed.x=2"], ["'seed.x=2': seed: "]),
        ("", ["train.lr=1e-3", "train.lr.x=1"], ["train.lr: input should be a valid number"]),
        ("mask: {ratio: [0.1, 0.2]}", ["mask.ratio.0=0.3"], ["'mask.ratio.0=0.3': mask.ratio"]),
        ("", ["trian=3", "trian.lr=1"], ["unknown key 'trian'"]),
        ("", ["data.name=aids"], ["data.name", "'aid'", "got 'aids'"]),
        ("", ["device=gpu"], ["device", "use auto, cpu, cuda"]),
        ("", ["losses.svd=.nan"], ["losses.svd", "finite"]),
        ("", ["model.width=30"], ["model.width", "multiple of 4"]),
        ("model: 3", [], ["my.yaml", "model", "is a section"]),
        ("", ["nonsense"], ["'nonsense'", "key.sub=value"]),
        ("- a\n- b", [], ["my.yaml", "mapping"]),
        ("a: [", [], ["my.yaml", "not valid YAML"]),
    ],
)
def test_mistakes_are_one_clear_line(written, text: str, overrides: list[str], expected: list[str]):
    with pytest.raises(InputError) as caught:
        load_config(written(text or "seed: 1"), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


# The model's name, and what it brings and forbids.

PUBLISHED = {
    "igll": (32, None),
    "dmfn": (64, [8]),
    "dmfn24": (64, [24]),
    "hifill": (32, None),
    "han": (64, [1, 2, 4, 8]),
    "hint": (48, [4, 6, 6, 8]),
}
NAMES = pytest.mark.parametrize("name", PUBLISHED)
PEERS = pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "igll"])


@NAMES
def test_what_is_left_out_is_as_published(written, name: str):
    model = load_config(written(f"model: {{name: {name}}}\n")).model
    assert (model.width, model.blocks) == PUBLISHED[name]
    assert model.structure_prior == ("oracle" if name == "igll" else "none")
    assert load_config(written("seed: 1\n"), [f"model.name={name}"]).model == model


@PEERS
@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [
        ("structure_prior", "oracle", "none"),
        ("structure_prior", "learned", "none"),
        ("prefill", "harmonic", "none"),
        ("residual", "true", "False"),
        ("exemplar", "true", "False"),
        ("heads", "3", "1"),
        ("position", "false", "True"),
        ("position_grid", "16", "64"),
        ("select", "best", "softmax"),
        ("gam", "vanilla", "gam"),
        ("ffsm", "vanilla", "ffsm"),
        ("score_scale", "10", "1.0"),
    ],
)
def test_peers_refuse_what_only_igll_has(written, name: str, key: str, value: str, plain: str):
    override = f"model.{key}={value}"
    with pytest.raises(InputError) as caught:
        load_config(written("seed: 1\n"), [f"model.name={name}", override])
    expected = (
        f"'{override}': model.{key}: {name} has no such choice; leave it out, or set it to {plain} (got"
    )
    assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)
    load_config(written("seed: 1\n"), [override])  # as it stands, IGLL takes it
    plainly = load_config(written("seed: 1\n"), [f"model.name={name}", f"model.{key}={plain}"])
    assert plainly == load_config(written("seed: 1\n"), [f"model.name={name}"])


@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        ("igll", "[1]", "igll has no blocks to count"),
        ("hifill", "[8]", "hifill has no blocks to count"),
        ("dmfn", "[4, 4]", "dmfn takes 1 number(s), such as [8]"),
        ("dmfn24", "[]", "dmfn24 takes 1 number(s), such as [24]"),
        ("han", "[1, 2, 4]", "han takes 4 number(s), such as [1, 2, 4, 8]"),
        ("hint", "[4, 6, 6, 8, 8]", "hint takes 4 number(s), such as [4, 6, 6, 8]"),
        ("han", "[1, 0, 4, 8]", "greater than or equal to 1 (got 0)"),
        ("han", "4", "valid list (got 4)"),
    ],
)
def test_blocks_that_a_network_does_not_have_are_refused(written, name: str, blocks: str, expected: str):
    with pytest.raises(InputError) as caught:
        load_config(written("seed: 1\n"), [f"model.name={name}", f"model.blocks={blocks}"])
    message = str(caught.value)
    assert message.startswith(f"'model.blocks={blocks}': model.blocks: ") and expected in message
    assert "\n" not in message


def test_an_unknown_network_is_named_with_those_that_are_known(written):
    with pytest.raises(InputError, match=r"^'model.name=mat': model.name: .*'igll'.*'hint' \(got 'mat'\)$"):
        load_config(written("seed: 1\n"), ["model.name=mat", "model.heads=3"])


@NAMES
@pytest.mark.parametrize("chosen", [False, True])
def test_every_networks_resolved_configuration_reads_back_equal(
    written, tmp_path: Path, name: str, chosen: bool
):
    overrides = [f"model.name={name}"]
    if chosen:
        blocks = PUBLISHED[name][1]
        overrides += ["model.width=8", *([f"model.blocks={[1] * len(blocks)}"] if blocks else [])]
    config = load_config(written("seed: 5\n"), overrides)
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    # And as a checkpoint keeps it.
    assert build_config(config.model_dump()) == config
    if chosen:
        assert config.model.width == 8 and (config.model.blocks is None or set(config.model.blocks) == {1})


def test_a_saved_igll_configuration_does_not_turn_into_a_peer_unnoticed(written, tmp_path: Path):
    save_config(load_config(written("model: {residual: true}\n")), tmp_path / "resolved.yaml")
    with pytest.raises(InputError, match=r"resolved\.yaml: model\.structure_prior: dmfn has no such choice"):
        load_config(tmp_path / "resolved.yaml", ["model.name=dmfn"])


NEW_KEYS = [
    "model.name", "model.blocks", "model.score_scale", "discriminator.name", "mask.families", "losses.staged",
    "losses.whole", "losses.whole_per_hole", "losses.perceptual_layers", "losses.perceptual_by_channels",
    "losses.style_layers", "losses.style_of", "losses.adversarial_form", "losses.gradient_penalty",
    "losses.judged", "losses.feature_matching_of", "train.optimizer", "train.weight_decay", "data.stretch",
    "data.scan", "data.on_error",
]  # fmt: skip


@pytest.mark.parametrize("name", ["aid_25", "rice1_77_blind", "quickstart"])
def test_resolved_configurations_without_the_peers_keys_still_load(tmp_path: Path, name: str):
    config = load_config(CONFIGS / f"{name}.yaml")
    values = config.model_dump()
    for key in NEW_KEYS:
        section, last = key.split(".")
        del values[section][last]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == build_config(values) == config


PEER_CONFIGS = {
    "dmfn": ("dmfn", "strided", "relativistic", "composite"),
    "hifill": ("hifill", "critic", "wasserstein", "composite"),
    "han": ("han", "patch", "non_saturating", "prediction"),
    "hint": ("hint", "patch", "least_squares", "prediction"),
}


def test_all_announced_peer_configs_ship():
    assert {path.stem for path in (CONFIGS / "peers").glob("*.yaml")} == {*PEER_CONFIGS, "equal_budget"}


@pytest.mark.parametrize("name", PEER_CONFIGS)
def test_peer_configs_hold_their_own_training(name: str):
    config = load_config(CONFIGS / "peers" / f"{name}.yaml")
    judge, losses = config.discriminator, config.losses
    found = (config.model.name, judge.name, losses.adversarial_form, losses.judged)
    assert found == PEER_CONFIGS[name] and not judge.edge
    assert (config.model.width, config.model.blocks) == PUBLISHED[name]
    # Of IGLL's own terms they have none.
    assert losses.local == losses.pixel == losses.svd == losses.edge == 0
    assert bool(losses.staged) == (name == "hifill") != bool(losses.whole)


def test_a_missing_or_binary_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.yaml: cannot read the config: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(InputError, match=r"picture\.yaml: not a text file"):
        load_config(tmp_path / "picture.yaml")


def test_every_key_is_documented_with_its_default():
    text = (CONFIGS.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `?([^|`]*)`? \|", text, re.MULTILINE))
    assert list(rows) == all_keys()
    for key, default in rows.items():
        value: object = Config()
        for name in key.split("."):
            value = getattr(value, name)
        written_value = (
            yaml.safe_load(default.strip()) if key != "eval.metrics" else default.strip("[] ").split(", ")
        )
        assert written_value == value or str(written_value) == str(value), key


def test_unsafe_yaml_is_refused(written):
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(written("seed: !!python/object/apply:os.getcwd []"))


def test_an_older_configuration_stays_whole_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    save_config(Config(), path)
    before, write = path.read_bytes(), Path.write_text

    def half(self: Path, text: str, *arguments: str) -> int:
        write(self, text[: len(text) // 2], *arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match=r"config\.yaml: cannot be written \(No space left"):
        save_config(Config(seed=1), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
