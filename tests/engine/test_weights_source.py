"""Whatever names weights: what wins, what is told where there is nothing, and the check of SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from igll.engine import weights_source
from igll.engine.hub import is_repo
from igll.engine.weights_source import WeightsSource, column_title, find_weights
from igll.errors import InputError
from igll.weights import BEST, SHIPPED, ShippedWeights


@pytest.fixture
def hub(monkeypatch) -> list[tuple[str, str | None]]:
    """What is asked of the hub, which has everything."""
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, revision: str | None) -> tuple[Path, str]:
        asked.append((repo, revision))
        return Path("cache/model.safetensors"), "c" * 40

    monkeypatch.setattr(weights_source, "download_weights", download)
    return asked


def test_shipped_names():
    path = SHIPPED[BEST].path
    assert find_weights() == find_weights(BEST) == WeightsSource(path, BEST, BEST)
    assert find_weights().sha256 == SHIPPED[BEST].sha256


def test_an_existing_path_wins_over_a_name_and_over_a_repo(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    Path(BEST).write_bytes(b"mine")
    Path("owner").mkdir()
    Path("owner/name").write_bytes(b"mine too")
    assert find_weights(BEST) == WeightsSource(Path(BEST), BEST, BEST)
    assert find_weights("owner/name") == WeightsSource(Path("owner/name"), "owner/name", "name")
    with pytest.raises(InputError, match="owner/name: a path on this machine, which has no revision"):
        find_weights("owner/name", revision="v1")
    assert hub == []


def test_repos_are_asked_for_by_revision_and_named_by_commit(hub):
    commit = "c" * 40
    for given, revision, asked in (
        ("owner/name", None, ("owner/name", None)),
        ("owner/name@v1", None, ("owner/name", "v1")),
        ("owner/name@refs/pr/1", None, ("owner/name", "refs/pr/1")),
        ("owner/name", "v2", ("owner/name", "v2")),
    ):
        source = find_weights(given, revision)
        assert hub.pop() == asked
        assert source.named == source.title == f"owner/name@{commit}"


def test_a_missing_path_is_not_looked_for_in_the_hub(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for given in ("runs/best.pt", "owner/best.PT", "a/b/c", "/a/b", "./a", "~/a", "runs/aid_77", Path("a/b")):
        with pytest.raises(InputError, match="no such checkpoint; give a checkpoint of igll-train, a file"):
            find_weights(given)
    assert hub == []
    find_weights("runs/aid_77", "main")
    assert hub == [("runs/aid_77", "main")]


def test_names_of_repos():
    assert all(is_repo(name) for name in ("a/b", "a-b/c.d_e", "0a/igll-small"))
    assert not any(
        is_repo(name) for name in ("a", "a/b/c", "/a", "a/", "a/b.safetensors", "../a", "a b/c", "ä/b")
    )


def test_an_unknown_name_is_told_with_the_names_that_there_are(tmp_path):
    with pytest.raises(InputError) as told:
        find_weights("igll-smal")
    assert str(told.value).startswith(
        f"igll-smal: no such checkpoint (did you mean '{BEST}'?); give a checkpoint"
    )
    assert all(name in str(told.value) for name in SHIPPED) and "OWNER/NAME" in str(told.value)
    with pytest.raises(InputError, match=f"{BEST}: no such checkpoint; give"):  # a Path is no name
        find_weights(Path(BEST))
    with pytest.raises(InputError, match="no such checkpoint; a folder of shared weights has model"):
        find_weights(tmp_path)
    with pytest.raises(InputError, match=f"{BEST}: ships with igll and has no revision; leave 'v1' out"):
        find_weights(BEST, revision="v1")


def test_another_sha256_is_refused_wherever_the_file_comes_from(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert find_weights(path, sha256=digest.upper()).path == path
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"weights")
    assert find_weights(tmp_path / "folder", sha256=digest).title == "folder"
    for given in (path, tmp_path / "folder", BEST, None):
        with pytest.raises(InputError, match=f"refused, its SHA-256 is .* and not {'1' * 64}"):
            find_weights(given, sha256="1" * 64)
    for none in ("12ab", 5):
        with pytest.raises(InputError, match=f"sha256 '{none}': give the 64 hexadecimal digits"):
            find_weights(path, sha256=none)


@pytest.mark.parametrize("none", [3, "", b"igll-small"])
def test_what_is_no_name_of_weights_is_refused(none):
    with pytest.raises(InputError, match=f"{none!r}: names no weights; give"):
        find_weights(none)


def test_titles_of_columns(tmp_path):
    run = tmp_path / "run7" / "checkpoints"
    run.mkdir(parents=True)
    (run / "last.pt").touch()
    assert column_title(str(run / "last.pt")) == "run7"
    assert column_title(BEST) == BEST and column_title("owner/name@v1") == "owner/name@v1"


def test_a_name_that_no_disk_takes_is_one_short_line(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    for given in ("n" * 300, f"owner/{'n' * 300}", Path("n" * 300)):
        with pytest.raises(InputError, match=r"n…: cannot be looked for .*too long") as told:
            find_weights(given)
        assert "\n" not in str(told.value) and "n" * 100 not in str(told.value)
    with pytest.raises(InputError, match="cannot be looked for"):
        column_title("n" * 300)
    assert hub == []


def test_a_repo_has_one_revision(hub):
    with pytest.raises(InputError, match="o/n@a: names revision 'a', but 'b' is asked for; give one"):
        find_weights("o/n@a", revision="b")
    for revision in (None, "b"):
        with pytest.raises(InputError, match="o/n@: has no revision after @; give a branch"):
            find_weights("o/n@", revision=revision)
    assert hub == []
    find_weights("o/n@a", revision="a")
    assert hub == [("o/n", "a")]


def test_a_shipped_file_that_is_gone_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(ShippedWeights, "path", tmp_path / "gone.safetensors")
    for given in (None, BEST):
        with pytest.raises(InputError, match=r"gone\.safetensors: is missing, .*; install igll again"):
            find_weights(given)
