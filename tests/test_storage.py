"""Writing results whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from igll import storage
from igll.errors import InputError, OutputError
from igll.storage import make_folder, replacing, uninterrupted


@pytest.mark.parametrize("durable", [False, True])
def test_content_appears_at_once_and_alone(tmp_path: Path, durable: bool):
    path = tmp_path / "new" / "a.bin"
    with replacing(path, durable) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists() and temporary.parent == path.parent and temporary.suffix == ".bin"
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]


def test_a_durable_write_waits_for_content_and_name(tmp_path: Path, monkeypatch):
    flushed = []
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "a.bin"
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(b"x")
    assert flushed == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_any_failure_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half")
            raise error
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_older_file_gets_another_name_or_keeps_its_own(tmp_path: Path, monkeypatch):
    path, previous = tmp_path / "a.txt", tmp_path / "b.txt"
    for text in ("1", "2", "3"):
        with replacing(path, previous=previous) as temporary:
            temporary.write_text(text)
    assert (path.read_text(), previous.read_text()) == ("3", "2")
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith("."):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError), replacing(path, previous=previous) as temporary:
        temporary.write_text("4")
    assert path.read_text() == "3" and set(tmp_path.iterdir()) <= {path, previous}


def test_folders_are_made_or_refused(tmp_path: Path, monkeypatch):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/c: cannot be made \(Not a directory\); choose another --out"):
        make_folder(tmp_path / "file" / "c")
    monkeypatch.setattr(storage.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to write there"):
        make_folder(tmp_path / "a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_short_write(number: int):
    heard: list[str] = []
    before = signal.signal(number, lambda *_: heard.append("signal"))
    try:
        with uninterrupted():
            signal.raise_signal(number)
            heard.append("written")
        assert heard == ["written", "signal"]
        signal.raise_signal(number)  # heard at once again
        assert heard == ["written", "signal", "signal"]
    finally:
        signal.signal(number, before)


def test_a_thread_writes_without_touching_the_handlers():
    seen: list[object] = []
    before = signal.getsignal(signal.SIGINT)

    def write() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert seen == [before]
