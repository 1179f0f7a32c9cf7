import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import (
    check_place,
    check_room,
    find_kind,
    part_file,
    read_json,
    replace_file,
    write_json,
)


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path):
    replace_file(tmp_path / "a" / "b" / "text", "ä\n")
    replace_file(tmp_path / "bytes", b"\xff\x00\r\n")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == b"\xc3\xa4\n"
    assert (tmp_path / "bytes").read_bytes() == b"\xff\x00\r\n"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "bytes", "text"]


def test_a_reader_meets_the_old_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with part_file(path) as part:
        part.write_text("ne")
        assert part.parent == path.parent
        assert part.name.startswith(".")
        assert path.read_text() == "old"
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_writer_leaves_the_old_content_and_no_part(tmp_path, failure):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with part_file(path) as part:
            part.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    write = Path.write_bytes

    def fill(self, data):
        write(self, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match=r"file: cannot be written \(No space left on device\)"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["under a file", "a folder in its place"])
def test_a_place_where_nothing_can_be_written_is_told(tmp_path, place):
    path = tmp_path / "taken"
    if place == "under a file":
        path.write_text("a file")
        path = path / "deeper"
    else:
        path.mkdir()
    with pytest.raises(OutputError, match=r"taken.*cannot be written"):
        replace_file(path, "text")
    assert [p.name for p in tmp_path.rglob("*")] == ["taken"]


def test_two_processes_do_not_share_a_part(tmp_path, monkeypatch):
    with part_file(tmp_path / "file") as mine:
        monkeypatch.setattr(os, "getpid", lambda: 0)
        with part_file(tmp_path / "file") as theirs:
            assert mine != theirs
            theirs.write_text("theirs")
        mine.write_text("mine")
    assert (tmp_path / "file").read_text() == "mine"


def test_json_comes_back(tmp_path):
    content = {"text": "ä", "list": [1, 2.5, None], "inner": {"yes": True}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    assert (tmp_path / "file.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("content", [None, b"", b'{"cut": ', b"[1, 2]", b"3", b"\xff\xfe"])
def test_a_missing_or_damaged_json_file_reads_as_an_empty_object(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == {}
    path.write_text(json.dumps({"whole": 1}))
    assert read_json(path) == {"whole": 1}


def test_the_kind_of_what_stands_at_a_path_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    kinds = {name: find_kind(tmp_path / name) for name in ("file", "link", "nowhere", "pipe", "no")}
    assert kinds == {"file": "file", "link": "file", "nowhere": None, "pipe": "pipe", "no": None}
    assert find_kind(tmp_path) == "folder"
    assert find_kind(tmp_path / "file" / "inside") is None
    assert find_kind(Path("/dev/null")) == "device"
    for bad in ("x" * 5000, "a\0b"):
        with pytest.raises(InputError, match="cannot be read"):
            find_kind(tmp_path / bad)


def test_a_place_is_checked_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    check_place(tmp_path / "new" / "deep" / "out.csv")
    check_place(tmp_path / "file")  # to be replaced
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OutputError, match="file is a file"):
        check_place(tmp_path / "file" / "out.csv")


def test_too_small_a_disk_is_told_with_both_numbers(tmp_path):
    check_room(tmp_path / "new", needed=1)
    with pytest.raises(OutputError, match=rf"found \d+ bytes free; expected {2**80} or more"):
        check_room(tmp_path / "new", needed=2**80)
    assert not (tmp_path / "new").exists()


def test_parts_of_dead_runs_are_taken_away_and_no_others(tmp_path):
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".result.csv.{host}-{dead.pid}.part"
    others = [
        tmp_path / f".result.csv.{host}-{os.getppid()}.part",  # it still runs
        tmp_path / f".result.csv.elsewhere-{dead.pid}.part",  # of another machine
        tmp_path / f".other.csv.{host}-{dead.pid}.part",
        tmp_path / "result.csv.part",
    ]
    for path in (stale, *others):
        path.write_text("half")
    replace_file(tmp_path / "result.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.csv",
        *(path.name for path in others),
    }
