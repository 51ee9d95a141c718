"""Images that cannot be used, as a whole run sees them: scanned, replaced, counted, listed, resumed."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from igll.config import Config
from igll.data.sampler import SampleKey, StepSampler
from igll.data.stand_ins import Replacement, Unusable
from igll.engine import train as engine
from igll.engine.batches import open_data, training_batches
from igll.engine.checkpoint import load_checkpoint
from igll.engine.evaluate import evaluate
from igll.engine.scan import LIST_NAME, ReplacementRecord, UnusableList, find_unusable
from igll.engine.train import train
from igll.engine.trained import load_generator
from igll.engine.validate import Validation
from igll.errors import InputError
from tests.data.test_stand_ins import DAMAGES, cut, pictures
from tests.data.test_stand_ins import small as make_small
from tests.engine.test_train import differing

TRAINING, VALIDATION = 7, 3


@pytest.fixture
def run_of(small, tmp_path: Path):
    """Builds a run on 7 training and 3 validation images in files."""
    pictures(tmp_path / "a", TRAINING)
    pictures(tmp_path / "b", VALIDATION)

    def build(data: dict | None = None, **sections) -> Config:
        folders = {"name": "folder", "root": str(tmp_path / "a"), "val_root": str(tmp_path / "b")}
        train = {"eval_images": 3, "max_steps": 9, "checkpoint_every": 2, **sections.pop("train", {})}
        return small(data={**folders, **(data or {})}, train=train, **sections)

    return build


def listed(run: Path) -> list[list[str]]:
    text = (run / LIST_NAME).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [line.split("\t") for line in text.splitlines()]


def log(run: Path, split: str) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{**line, "time": 0} for line in lines if line["split"] == split]


def keys(config: Config, steps: int = 9) -> list[list[SampleKey]]:
    return list(StepSampler(TRAINING, config.train.batch_size, config.seed, 0, steps))


# --- Scan


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_scan_refuses_to_start_and_lists_every_broken_file(run_of, tmp_path, monkeypatch, damage: str):
    config = run_of({"scan": True})
    plain = engine.open_data

    def opens_then_breaks(config):
        """As between listing the folder and reading its files."""
        opened = plain(config)
        for path in (tmp_path / "a" / "2.png", tmp_path / "a" / "5.png", tmp_path / "b" / "1.png"):
            DAMAGES[damage](path)
        return opened

    monkeypatch.setattr(engine, "open_data", opens_then_breaks)
    monkeypatch.setattr(engine, "build_state", lambda *_: pytest.fail("the scan comes before anything else"))
    out = tmp_path / "run"
    with pytest.raises(InputError) as caught:
        train(config, out)
    message = str(caught.value)
    assert message.startswith(f"3 image(s) cannot be used, all listed in {out / LIST_NAME}; ")
    first = "2.png: is 32×31 pixels" if damage == "too small" else f"{tmp_path / 'a' / '2.png'}: "
    assert f"the first: {first}" in message
    assert "\n" not in message and len(message) < 700
    assert [line[0] for line in listed(out)] == ["2.png", "5.png", "1.png"]
    assert all(len(line) == 3 and len(line[1]) > 20 and line[2] == "start" for line in listed(out))


def test_a_scan_of_sound_files_leaves_nothing_behind_and_changes_nothing(run_of, tmp_path: Path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / LIST_NAME).write_text("old\tlist\tstart\n")
    train(run_of({"scan": True}, train={"max_steps": 2}), out)
    assert not (out / LIST_NAME).exists() and "training images" in capsys.readouterr().err
    train(run_of(train={"max_steps": 2}), tmp_path / "plain")
    first, second = (load_checkpoint(run / "checkpoints" / "last.pt") for run in (out, tmp_path / "plain"))
    assert all(where == ".config.data.scan" for where in differing(first, second))


def test_after_mending_the_list_is_anew(run_of, tmp_path: Path):
    content = (tmp_path / "a" / "2.png").read_bytes()
    cut(tmp_path / "a" / "2.png")
    for _ in range(2):
        with pytest.raises(InputError, match=r"^1 image"):
            train(run_of({"scan": True}), tmp_path / "run")
    (tmp_path / "a" / "2.png").write_bytes(content)
    cut(tmp_path / "a" / "6.png")
    with pytest.raises(InputError, match=r"^1 image"):
        train(run_of({"scan": True}), tmp_path / "run")
    assert [line[0] for line in listed(tmp_path / "run")] == ["6.png"]


def test_a_scan_with_skip_says_how_many_and_goes_on(run_of, tmp_path: Path, capsys):
    cut(tmp_path / "a" / "2.png")
    make_small(tmp_path / "a" / "4.png")
    cut(tmp_path / "b" / "0.png")
    assert train(run_of({"scan": True, "on_error": "skip"}), tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert f"warning: 2 training image(s) cannot be used, others stand in; see {tmp_path}" in said
    assert f"warning: 1 validation image(s) cannot be used and are left out; see {tmp_path}" in said
    assert [line[::2] for line in listed(tmp_path / "run")] == [
        ["2.png", "start"],
        ["4.png", "start"],
        ["0.png", "start"],
    ]


def test_a_scan_without_any_sound_training_image_stops(run_of, tmp_path: Path):
    for path in (tmp_path / "a").iterdir():
        cut(path)
    with pytest.raises(InputError, match=r"^none of the 7 training images can be used; the first: .*0\.png"):
        train(run_of({"scan": True, "on_error": "skip"}), tmp_path / "run")
    assert len(listed(tmp_path / "run")) == 7


def test_a_scan_reads_in_several_threads_without_mixing_up_warnings(run_of, tmp_path, monkeypatch):
    """The filters belong to the process: unguarded, one thread would undo what another relies on."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 40 × 44 pixels are a warning, not an error
    monkeypatch.setattr("igll.engine.scan.os.cpu_count", lambda: 8)
    training = open_data(run_of())[0]
    training.indices = training.indices * 40
    seen: set[int] = set()

    def read(index: int) -> None:
        seen.add(threading.get_ident())
        training.checked_scene(index)

    before = warnings.filters[:]
    found = find_unusable(training, "", read)
    assert len(found) == 280 and all("too large" in image.reason for image in found.values())
    assert warnings.filters == before and len(seen) > 1


# --- A run under skip


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prior", ["none", "learned"])
def test_a_run_goes_on_counts_says_and_lists(run_of, tmp_path, capsys, workers: int, prior: str):
    for number in (3, 4):
        cut(tmp_path / "a" / f"{number}.png")
    config = run_of({"on_error": "skip", "workers": workers}, model={"structure_prior": prior})
    assert train(config, tmp_path / "run") == 0

    expected = {
        step: count
        for step, batch in enumerate(keys(config), start=1)
        if (count := sum(key.image in (3, 4) for key in batch))
    }
    lines = log(tmp_path / "run", "data")
    assert {line["step"]: line["skipped"] for line in lines} == expected and len(lines) > 3
    said = [
        line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "cannot be used" in line
    ]
    assert len(said) == 2, "one line a file"
    for number in (3, 4):
        (line,) = (line for line in said if line.startswith(f"warning: {number}.png"))
        assert "5.png stands in" in line and "damaged image" in line
    # 4.png is passed over for its own samples and for those of 3.png.
    needing = {"3.png": {3}, "4.png": {3, 4}}
    first = {
        name: min(
            step for step, batch in enumerate(keys(config), start=1) if {k.image for k in batch} & images
        )
        for name, images in needing.items()
    }
    assert {line[0]: line[2] for line in listed(tmp_path / "run")} == {
        name: f"step {step}" for name, step in first.items()
    }


def test_a_resumed_run_equals_the_uninterrupted_one_lists_included(run_of, tmp_path, monkeypatch, capsys):
    for number in (3, 6):
        cut(tmp_path / "a" / f"{number}.png")
    config = run_of({"on_error": "skip"}, model={"structure_prior": "none"})
    train(config, tmp_path / "whole")
    capsys.readouterr()

    class Killed(BaseException):
        pass

    step = engine.train_step

    def dies(state, *rest):
        if state.step == 7:
            raise Killed
        return step(state, *rest)

    monkeypatch.setattr(engine, "train_step", dies)
    with pytest.raises(Killed):
        train(config, tmp_path / "killed")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")["step"] == 6
    assert train(config, tmp_path / "killed", resume=True) == 0

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    saved = [load_checkpoint(run / "checkpoints" / "last.pt") for run in (whole, killed)]
    assert differing(*saved) == []
    for split in ("train", "val", "data"):
        assert log(whole, split) == log(killed, split) != []
    assert (whole / LIST_NAME).read_bytes() == (killed / LIST_NAME).read_bytes()


def test_sound_images_train_alike_under_both_policies(run_of, tmp_path: Path):
    for policy in ("error", "skip"):
        train(run_of({"on_error": policy}, train={"max_steps": 4}), tmp_path / policy)
    saved = [load_checkpoint(tmp_path / run / "checkpoints" / "last.pt") for run in ("error", "skip")]
    assert differing(*saved) == [".config.data.on_error"]
    assert log(tmp_path / "skip", "data") == [] and not (tmp_path / "skip" / LIST_NAME).exists()


def test_the_batch_names_the_stand_ins(run_of, tmp_path: Path):
    config = run_of({"on_error": "skip"})
    training = open_data(config)[0]
    training.edges = None
    cut(tmp_path / "a" / "3.png")
    for batch, drawn in zip(
        training_batches(config, training, 0, 7, torch.device("cpu")), keys(config, 7), strict=True
    ):
        assert batch.indices == [4 if key.image == 3 else key.image for key in drawn]
        assert len(batch.replaced) == sum(key.image == 3 for key in drawn)
        assert all(event.stand_in == "4.png" for event in batch.replaced)


def test_files_that_vanish_during_training(run_of, tmp_path, monkeypatch, capsys):
    """Under skip the run ends well on what is left; under error it saves and stops."""
    step = engine.train_step

    def vanishing(state, *rest):
        if state.step == 1:
            for path in (tmp_path / "a" / "2.png", tmp_path / "a" / "5.png", tmp_path / "b" / "1.png"):
                path.unlink(missing_ok=True)
        return step(state, *rest)

    config = run_of({"on_error": "skip", "cache_mb": 0}, model={"structure_prior": "none"})
    monkeypatch.setattr(engine, "train_step", vanishing)
    assert train(config, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "warning: validation goes on with 2 image(s), without 1.png: " in said
    assert said.count("1.png: ") == 2, "once, with its path"
    assert sorted(line[0] for line in listed(tmp_path / "run")) == ["1.png", "2.png", "5.png"]
    assert ["1.png", "step 3"] in [line[::2] for line in listed(tmp_path / "run")]
    assert [line["step"] for line in log(tmp_path / "run", "val")] == [3, 6, 9]
    with pytest.raises(InputError, match=r"\.png: no such file"):
        pictures(tmp_path / "c", TRAINING)
        strict = run_of({"root": str(tmp_path / "c"), "cache_mb": 0}, model={"structure_prior": "none"})
        monkeypatch.setattr(
            engine, "train_step", lambda *all_: (tmp_path / "c/2.png").unlink(True) or step(*all_)
        )
        train(strict, tmp_path / "strict")
    assert load_checkpoint(tmp_path / "strict" / "checkpoints" / "last.pt")["step"] >= 1


def test_scores_are_of_the_validation_images_that_are_left(run_of, tmp_path: Path):
    config = run_of({"on_error": "skip"}, train={"max_steps": 3})
    content = (tmp_path / "b" / "1.png").read_bytes()
    cut(tmp_path / "b" / "1.png")
    train(config, tmp_path / "run")
    (tmp_path / "b" / "1.png").write_bytes(content)
    _, testing, _ = open_data(config)
    testing.indices = [0, 2]
    generator = load_generator(tmp_path / "run" / "checkpoints" / "last.pt")[0]
    expected = Validation(testing, config, torch.device("cpu")).scores(generator)
    (line,) = log(tmp_path / "run", "val")
    assert {name: line[name] for name in expected} == expected


def test_without_any_sound_validation_image_the_run_does_not_start(run_of, tmp_path: Path):
    for path in (tmp_path / "b").iterdir():
        cut(path)
    with pytest.raises(InputError, match=r"^none of the 3 validation images can be used; the first: "):
        train(run_of({"on_error": "skip"}), tmp_path / "run")


def test_evaluation_is_strict_whatever_the_policy(run_of, tmp_path: Path):
    cut(tmp_path / "b" / "1.png")
    for prior in ("none", "oracle"):
        config = run_of({"on_error": "skip"}, model={"structure_prior": prior})
        with pytest.raises(InputError, match=r"1\.png: damaged image"):
            evaluate(config, None, tmp_path / "result", ["nearest"])


# --- The list


def test_the_list_holds_any_name_on_one_line_once(tmp_path: Path):
    odd = Unusable("a\tb\nc\udcff.png", "first\nsecond")
    for _ in range(2):
        for _ in range(2):
            UnusableList(tmp_path, keep=True).add([odd, Unusable("ü", "why"), odd], "step 1")
    assert listed(tmp_path) == [["a\\tb\\nc\\udcff.png", "first\\nsecond", "step 1"], ["ü", "why", "step 1"]]
    UnusableList(tmp_path, keep=False)
    assert not (tmp_path / LIST_NAME).exists()


def test_a_warning_is_said_once_for_each_image(tmp_path: Path, capsys):
    counted = []

    class Log:
        def scalars(self, step, split, values):
            counted.append((step, split, values))

    record = ReplacementRecord(UnusableList(tmp_path, keep=False), Log())
    one = Replacement([Unusable("3.png", "cut"), Unusable("4.png", "cut")], "5.png")
    for step in (2, 4):
        record.note(step, [one, Replacement([Unusable("4.png", "cut")], "5.png")])
        record.note(step + 1, [])
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: {n}.png cannot be used, 5.png stands in: cut" for n in (3, 4)]
    assert counted == [(step, "data", {"skipped": 2}) for step in (2, 4)]
    assert [line[::2] for line in listed(tmp_path)] == [["3.png", "step 2"], ["4.png", "step 2"]]
