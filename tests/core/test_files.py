import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import (
    check_place,
    check_room,
    find_kind,
    find_record,
    is_stray,
    parse_record,
    part_file,
    read_record,
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
    assert read_record(tmp_path / "file.json", dict[str, Any], remedy="") == content
    assert (tmp_path / "file.json").read_text(encoding="utf-8").endswith("}\n")


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
    (tmp_path / "folder").mkdir()
    for write in (check_place, lambda path: replace_file(path, "text")):
        with pytest.raises(
            OutputError,
            match=r"folder: cannot be written \(it is a folder\); expected",
        ):
            write(tmp_path / "folder")


def test_only_a_file_of_the_kind_that_is_written_is_replaced(tmp_path):
    for name, text in {"mine": "id,a\n1,2\n", "other": "a,id\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    for name in ("mine", "empty", "new"):
        check_place(tmp_path / name, begins="id,a")
    for name, options in {
        "other": {"begins": "id,a"},
        "mine": {"reads": [tmp_path / "mine"]},
    }.items():
        with pytest.raises(OutputError, match=f"{name}: found a file .*; expected another one"):
            check_place(tmp_path / name, **options)


def test_a_link_is_followed_and_a_pipe_or_device_is_refused(tmp_path):
    """A regular file in place of /dev/stdout would break other programs."""
    os.mkfifo(tmp_path / "pipe")
    for name, target in {"link": "target", "to_pipe": "pipe", "null": "/dev/null"}.items():
        (tmp_path / name).symlink_to(target)
    for _ in range(2):  # a target that is not there yet, and one that is replaced
        replace_file(check_place(tmp_path / "link", begins="text"), "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
    for name, kind in {"pipe": "pipe", "to_pipe": "pipe", "null": "device"}.items():
        with pytest.raises(OutputError, match=rf"cannot be written \(it is a {kind}\)"):
            check_place(tmp_path / name)


def test_a_disk_that_is_mounted_read_only_is_called_so(tmp_path, monkeypatch):
    """Whether the file is there already or not."""
    (tmp_path / "there").touch()
    mounted = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: mounted)
    for name in ("there", "new", "deep/new"):
        with pytest.raises(OutputError, match="the disk is mounted read-only"):
            check_place(tmp_path / name)
    mounted.f_flag = 0
    for name in ("there", "new"):
        with pytest.raises(OutputError, match="no right to write"):
            check_place(tmp_path / name)


@pytest.mark.parametrize(
    "path",
    [
        "._a.png", ".DS_Store", "a/.ipynb_checkpoints/b.png", "__MACOSX/a.csv", "a/Thumbs.db",
        "a/@eaDir/b.png/thumb.jpg", "Desktop.ini", "desktop.ini", "#recycle/a.dcm", "..a", "a/.b/c",
    ],
)  # fmt: skip
def test_stray_files_are_known_by_a_part_of_their_path(path):
    assert is_stray(path)


@pytest.mark.parametrize(
    "path", ["a.png", "train/case1/case1_day2/scans/a.png", "./a", "a/../b", "thumbs.db.csv", "@e"]
)
def test_other_files_are_no_strays(path):
    assert not is_stray(path)


def test_too_small_a_disk_is_told_with_both_numbers(tmp_path):
    check_room(tmp_path / "new", needed=1)
    with pytest.raises(OutputError, match=rf"found \d+ bytes free; expected at least {2**80}"):
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


@dataclass(frozen=True, kw_only=True)
class Part:
    size: tuple[int, ...]
    spacing: tuple[float, float] = (1.0, 1.0)
    fold: int | Literal["all"] = "all"


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    parts: dict[str, Part]


class Table(TypedDict):
    value: float


@pytest.mark.parametrize(
    ("text", "key", "found", "expected"),
    [
        ('{"name": "a", "parts": {"2d": true}}', 'parts["2d"]', "true", "an object"),
        ('{"name": "a", "parts": {"x": {"size": [1, true]}}}', "parts.x.size[1]", "true", ""),
        ('{"name": "a", "parts": {"x": {"size": "9"}}}', "parts.x.size", '"9"', "array"),
        ('{"name": "a", "parts": {"x": {"size": [Infinity]}}}', "parts.x.size[0]", "Infinity", ""),
        ('{"name": 3, "parts": {}}', "name", "3", "a valid string"),
        (
            '{"name": "a", "parts": {"x": {"size": [], "spacing": [1]}}}',
            "parts.x.spacing[1]", "nothing", "this key",
        ),
        ('{"parts": {}}', "name", "nothing", "this key"),
        (
            '{"name": "a", "parts": {"x": {"size": [], "spacing": [1, NaN]}}}',
            "parts.x.spacing[1]", "NaN", "a finite number",
        ),
        (
            '{"name": "a", "parts": {"x": {"size": [], "fold": "some"}}}',
            "parts.x.fold", '"some"', "a valid integer or 'all'",
        ),
    ],
)  # fmt: skip
def test_a_damaged_key_is_named_with_what_was_found_and_expected(text, key, found, expected):
    with pytest.raises(InputError) as caught:
        parse_record(text, Whole, where="a.json", remedy="Make it again.")
    line, remedy = str(caught.value).split("\n")
    assert line.startswith(f"a.json: {key}: found {found}; expected ")
    assert expected in line
    assert remedy == "Make it again."


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"null", b"[]", b"3", b"[" * 10**5, b'{"name": 1' + b"0" * 5000]
)
def test_what_is_no_object_is_refused_by_one_line(data):
    with pytest.raises(InputError, match=r"^a\.json: found .*; expected (JSON|an object)\n"):
        parse_record(data, Whole, where="a.json", remedy="Make it again.")


def test_all_damaged_keys_are_named_together():
    with pytest.raises(InputError) as caught:
        parse_record('[{"value": "1"}, {}, {"value": 2}]', list[Table], where="t", remedy="Stop.")
    assert [line.partition(":")[2].partition(":")[0] for line in str(caught.value).split("\n")] == [
        " [0].value", " [1].value", "",
    ]  # fmt: skip


def test_a_dataclass_leaves_unknown_keys_out_and_a_table_keeps_them():
    text = '{"name": "a", "parts": {"x": {"size": [2], "more": 1}}, "value": 2, "other": 3}'
    whole = parse_record(text, Whole, where="", remedy="")
    assert whole == Whole(name="a", parts={"x": Part(size=(2,))})
    assert not hasattr(whole, "other")
    assert parse_record(text, Table, where="", remedy="") == json.loads(text)


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_what_write_json_writes_is_read_again(content):
    assert parse_record(json.dumps(content), dict[str, float], where="", remedy="") == content


def test_a_file_name_that_is_not_utf8_does_not_make_a_file_unreadable(tmp_path):
    write_json(tmp_path / "a.json", {"path": os.fsdecode(b"a\xff\xf0\x9f\x98\x80")})
    read = read_record(tmp_path / "a.json", dict[str, str], remedy="")
    assert read == {"path": "a?\N{GRINNING FACE}"}


def test_a_missing_or_damaged_record_is_an_error_or_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_record(tmp_path / "a.json", Table, remedy="")
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path, Table, remedy="")
    assert find_record(tmp_path / "a.json", Table) is None
    assert find_record(tmp_path / "a.json", Table, remedy="Make it again.") is None
    write_json(tmp_path / "a.json", {"value": True})
    assert find_record(tmp_path / "a.json", Table) is None
    with pytest.raises(InputError, match=r"value: found true.*\nMake it again"):
        find_record(tmp_path / "a.json", Table, remedy="Make it again.")
    write_json(tmp_path / "a.json", {"value": 1})
    assert find_record(tmp_path / "a.json", Table) == {"value": 1}
