"""Two runs at once are kept apart, and a killed one holds nothing up."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from gi2nnunet.core.errors import OutputError
from gi2nnunet.core.locks import hold, hold_dataset, lock_path

HOLDER = """
import sys
from pathlib import Path
from gi2nnunet.core.locks import hold
with hold(Path(sys.argv[1]), purpose="testing", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts another process that holds a place until its input ends."""
    started = []

    def start(place, *, shared=False):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(place), "shared" if shared else "alone"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.communicate()


def test_the_second_run_is_told_who_holds_it(tmp_path, holder):
    process = holder(tmp_path / "place")
    with (
        pytest.raises(OutputError, match=rf"process {process.pid} on .*, testing, since 20"),
        hold(tmp_path / "place", purpose="mine"),
    ):
        pass


def test_a_killed_run_holds_nothing_up(tmp_path, holder):
    process = holder(tmp_path / "place")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock_path(tmp_path / "place").is_file()
    with hold(tmp_path / "place", purpose="mine"):
        entry = json.loads(lock_path(tmp_path / "place").read_text())
        assert (entry["pid"], entry["purpose"]) == (os.getpid(), "mine")
    assert list(tmp_path.iterdir()) == []


def test_readers_share_and_a_writer_waits_for_none_of_them(tmp_path, holder):
    first, second = (holder(tmp_path / "place", shared=True) for _ in range(2))
    with hold(tmp_path / "place", purpose="mine", shared=True):
        pass
    for process in (first, second):
        with (
            pytest.raises(OutputError, match=rf"process {process.pid} on "),
            hold(tmp_path / "place", purpose="mine"),
        ):
            pass
    first.communicate()
    with pytest.raises(OutputError) as told, hold(tmp_path / "place", purpose="mine"):
        pass
    assert f"process {second.pid} " in str(told.value)
    assert f"process {first.pid} " not in str(told.value)  # it has ended
    second.communicate()
    with hold(tmp_path / "place", purpose="mine"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_goes_on_when_it_is_free(tmp_path, holder):
    process = holder(tmp_path / "place")
    told = []

    def on_wait(text):
        told.append(text)
        threading.Thread(target=process.communicate).start()

    with hold(tmp_path / "place", purpose="mine", on_wait=on_wait):
        assert process.wait() == 0
    assert len(told) == 1
    assert f"process {process.pid} on " in told[0]


def test_folders_made_for_a_lock_go_with_it(tmp_path):
    place = tmp_path / "a" / "b" / "place"
    with hold(place, purpose="mine"):
        assert lock_path(place).is_file()
    assert list(tmp_path.iterdir()) == []
    with hold(place, purpose="mine"):
        place.write_text("result")
    assert [path.name for path in place.parent.iterdir()] == ["place"]


def test_threads_of_one_process_are_kept_apart_too(tmp_path):
    with (
        hold(tmp_path / "place", purpose="first"),
        pytest.raises(OutputError, match="first"),
        hold(tmp_path / "place", purpose="second"),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]\n", b'{"pid": "x"}\n', b"{}\n"])
def test_a_lock_file_that_tells_nothing_still_refuses(tmp_path, content):
    with hold(tmp_path / "place", purpose="first"):
        lock_path(tmp_path / "place").write_bytes(content)
        with (
            pytest.raises(OutputError, match="an unknown process"),
            hold(tmp_path / "place", purpose="second"),
        ):
            pass


def test_a_read_only_place_is_read_without_a_lock(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gi2nnunet.core.locks.os.open", refuse)
    with hold(tmp_path / "place", purpose="mine"):
        pass


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gi2nnunet.core.locks.os.open", refuse)
    with (
        pytest.raises(OutputError, match="No space left on device"),
        hold(tmp_path / "place", purpose="mine"),
    ):
        pass


def test_datasets_go_by_number(tmp_path):
    with (
        hold_dataset(tmp_path, 7, purpose="reading"),
        hold_dataset(tmp_path, 7, purpose="reading"),
        hold_dataset(tmp_path, 8, purpose="converting", shared=False),
        pytest.raises(OutputError, match="reading"),
        hold_dataset(tmp_path, 7, purpose="converting", shared=False),
    ):
        pass
