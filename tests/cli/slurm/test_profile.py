from __future__ import annotations

from pathlib import Path

import pytest

from gi2nnunet.cli.slurm.submit import Profile, count_minutes, read_profile
from gi2nnunet.core.errors import InputError


def test_without_a_file_the_defaults_hold() -> None:
    assert read_profile(None) == Profile()


def test_options_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text('partition = "gpu"\ngpus = 2\n[flags]\nqos = "long"\n')
    found = read_profile(file, overrides=["gpus=0", "account=lab"])
    assert found == Profile(partition="gpu", gpus=0, account="lab", flags={"qos": "long"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("partition = gpu", "is not TOML"),
        ('queue = "gpu"', "found the key 'queue'; expected account, cpus"),
        ('gpus = "two"', 'gpus: found "two"; expected a valid integer'),
        ("cpus = 0", "cpus: found 0; expected greater than or equal to 1"),
        ("cpus = true", "cpus: found true; expected a valid integer"),
        ('time = "a day"', "hours:minutes:seconds"),
        ("partition = 3", "partition: found 3; expected a valid string"),
        ("flags = {nice = 3}", "flags.nice: found 3; expected a valid string"),
        ("flags = 3", "flags: found 3; expected"),
        ('partition = "gpu\\n#SBATCH --uid=0"', "partition: found .*without control characters"),
        ('flags = {qos = "long\\r"}', "flags.qos: found .*without control characters"),
        ('flags = {"q\\no" = "long"}', "flags.*without control characters"),
        ('account = ""', "account: found .*expected a text"),
        ('time = "0:09:00"', "limit 0:09:00 and warning_seconds = 300; expected a warning in the"),
    ],
)
def test_what_is_wrong_with_a_profile_is_told(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as told:
        read_profile(file)
    assert str(file) in str(told.value)


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(InputError, match="--slurm partition: expected KEY=VALUE"):
        read_profile(None, overrides=["partition"])


@pytest.mark.parametrize("override", ["cpus=x", "qos=long", "time=24h", "warning_seconds=99999"])
def test_a_wrong_override_is_not_laid_on_the_file(override: str, tmp_path: Path) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text('partition = "gpu"\n')
    with pytest.raises(InputError, match=r"^--slurm: ") as told:
        read_profile(file, overrides=[override])
    assert str(file) not in str(told.value)


def test_a_limit_of_the_file_is_not_laid_on_an_override(tmp_path: Path) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text('time = "0:09:00"\n')
    with pytest.raises(InputError, match="limit 0:09:00") as told:
        read_profile(file, overrides=["gpus=0"])
    assert str(told.value).startswith(str(file))


def test_a_missing_profile_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("time", "minutes"), [("0:00:30", 1), ("1:30:00", 90), ("2-0:00:00", 2880), ("0:01:01", 2)]
)
def test_limits_are_counted_in_whole_minutes(time: str, minutes: int) -> None:
    assert count_minutes(time) == minutes
