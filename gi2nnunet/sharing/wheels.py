"""Wheels that another machine needs to run this package without a network.

pip fetches and builds them, but does not choose them. Asked for another Python, its dry run
evaluates environment markers by the Python that runs it, refuses packages without a wheel
(acvl_utils has none), and cannot know what the image holds. ``pip wheel`` cannot pack this package:
an installed package has no sources to build from.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from gi2nnunet.core.errors import EngineError, InputError

PACKAGE = "gi2nnunet"
# They go with the image's GPU driver, are several GB, and have to match one another.
OF_THE_IMAGE = frozenset({"torch", "torchvision"})
_OLDEST, _NEWEST = (3, 11), (3, 14)
_GLIBC = 35  # of Ubuntu 22.04, which the competition's image is built on
_PIP_SECONDS = 3600

Fetch = Callable[[Sequence[str], "Image", Path], None]


@dataclass(frozen=True, kw_only=True)
class Image:
    """The other machine: Linux on x86-64, with the Python ``(major, minor)``.

    ``installed`` holds versions by canonical name, ``None`` if unknown. If it is empty, nothing is
    known of the image, and torch is assumed to be there.
    """

    python: tuple[int, int]
    installed: Mapping[str, Version | None]

    @property
    def tags(self) -> frozenset[Tag]:
        """Return the tags of the wheels that it can install."""
        platforms = _list_platforms()
        name = f"cp{self.python[0]}{self.python[1]}"
        return frozenset(
            (
                *cpython_tags(self.python, platforms=platforms),
                *compatible_tags(self.python, interpreter=name, platforms=platforms),
            )
        )

    @property
    def version(self) -> str:
        """Return its Python, such as ``3.12``."""
        return ".".join(map(str, self.python))

    @property
    def markers(self) -> dict[str, str]:
        """Return the values of environment markers there."""
        return {
            **{key: str(value) for key, value in default_environment().items()},
            "implementation_name": "cpython",
            "implementation_version": f"{self.version}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.version}.0",
            "python_version": self.version,
            "sys_platform": "linux",
        }


def describe_image(python: str, freeze: Path | None = None) -> Image:
    """Describe the other machine by its Python, such as ``3.12``, and a file of ``pip freeze``.

    Raises
    ------
    InputError
        For a Python that this package does not run on, and a file that ``pip freeze`` did not
        write or that does not list torch.
    """
    oldest, newest = (".".join(map(str, one)) for one in (_OLDEST, _NEWEST))
    match = re.fullmatch(r"(\d)\.(\d{1,2})(?:\.\d+)?", python)
    version = (int(match[1]), int(match[2])) if match else None
    if version is None or not _OLDEST <= version <= _NEWEST:
        raise InputError(
            f"the image's Python: found {python!r}; expected a version from {oldest} to {newest}, "
            "as python --version prints it there."
        )
    return Image(python=version, installed={} if freeze is None else _read_freeze(freeze))


def collect_wheels(image: Image, folder: Path, *, fetch: Fetch | None = None) -> list[Path]:
    """Put every wheel that the image needs to run this package into a folder; return them, sorted.

    Packages come in the versions installed here, except those of which the image holds a version
    that fits. What only the image's Python needs comes in the newest version that fits. If nothing
    is known of the image, everything comes but torch, torchvision and what only they need.

    Raises
    ------
    InputError
        If the image's torch does not fit, or a package has no wheel for the image.
    EngineError
        If pip fails.
    """
    walk = _Walk(image=image, folder=folder, fetch=fetch or _fetch_with_pip)
    walk.follow(PACKAGE, metadata.requires(PACKAGE) or ())
    walk.check()
    missing = [f"{n}=={v}" for n, v in walk.shipped.items() if _find_wheel(folder, n) is None]
    if missing:
        walk.fetch(sorted(missing), image, folder)
    _build_sources(folder)
    _pack_own_wheel(folder)
    for name in (PACKAGE, *walk.shipped):
        wheel = _find_wheel(folder, name)
        if wheel is None:
            raise EngineError(f"pip fetched nothing for {name}. Run the same again.")
        if image.tags.isdisjoint(parse_wheel_filename(wheel.name)[3]):
            raise InputError(
                f"{wheel.name}: does not install on Python {image.version} on x86-64 Linux, and "
                f"no other wheel of {name} {walk.shipped.get(name, '')} was found. Run this under "
                f"Python {image.version}, or give --image-freeze of an image that holds {name}."
            )
    return sorted(folder.glob("*.whl"))


@dataclass(kw_only=True)
class _Walk:
    """From a package to everything that it needs and the image does not hold."""

    image: Image
    folder: Path
    fetch: Fetch
    # By canonical name: which packages need it, and the version that is shipped.
    needs: dict[str, list[tuple[str, Requirement]]] = field(default_factory=dict)
    shipped: dict[str, Version] = field(default_factory=dict)
    _done: set[tuple[str, str]] = field(default_factory=set)

    def follow(self, parent: str, requirements: Iterable[str], extra: str = "") -> None:
        """Collect what a package needs, and what that needs in turn."""
        markers = {**self.image.markers, "extra": extra}
        for need in map(Requirement, requirements):
            if need.marker is not None and not need.marker.evaluate(markers):
                continue
            name = canonicalize_name(need.name)
            if name in sys.stdlib_module_names:  # a backport, such as argparse, would hide it
                continue
            self.needs.setdefault(name, []).append((parent, need))
            held = name not in self.shipped and self.image.installed.get(name)
            if name in OF_THE_IMAGE or (held and _fits(held, need)):
                continue
            for part in ("", *sorted(need.extras)):
                if (name, part) not in self._done:
                    self._done.add((name, part))
                    self.follow(name, self._ship(name, need), part)

    def check(self) -> None:
        """Refuse a shipped or installed version that a package cannot use."""
        for name, needs in self.needs.items():
            version = self.shipped.get(name) or self.image.installed.get(name)
            for parent, need in needs:
                if version is not None and not _fits(version, need):
                    raise InputError(
                        f"{name}: found {version} "
                        f"{'here' if name in self.shipped else 'in the image'}; {parent} needs "
                        f"{need.specifier}. Choose an image with such a version."
                    )

    def _ship(self, name: str, need: Requirement) -> Sequence[str]:
        """Note the version that is shipped; return what it requires."""
        try:
            self.shipped[name] = Version(metadata.version(name))
            return metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            if _find_wheel(self.folder, name) is None:
                self.fetch([f"{name}{need.specifier}"], self.image, self.folder)
                _build_sources(self.folder)
        wheel = _find_wheel(self.folder, name)
        if wheel is None:
            raise EngineError(f"pip fetched nothing for {need}. Run the same again.")
        self.shipped[name] = parse_wheel_filename(wheel.name)[1]
        with zipfile.ZipFile(wheel) as members:
            place = next(n for n in members.namelist() if n.endswith(".dist-info/METADATA"))
            header = HeaderParser().parsestr(members.read(place).decode())
        return header.get_all("Requires-Dist") or ()


def _fits(version: Version, need: Requirement) -> bool:
    return need.specifier.contains(version, prereleases=True)


def _find_wheel(folder: Path, name: str) -> Path | None:
    return next(
        (path for path in folder.glob("*.whl") if parse_wheel_filename(path.name)[0] == name), None
    )


def _list_platforms() -> list[str]:
    """Return the platforms of wheels that run on the image, the newest first."""
    names = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC, 4, -1)]
    return [*names, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64",
            "linux_x86_64"]  # fmt: skip


def _fetch_with_pip(requirements: Sequence[str], image: Image, folder: Path) -> None:
    platforms = [word for name in _list_platforms() for word in ("--platform", name)]
    _run_pip(
        "download", "--no-deps", "--prefer-binary", "--dest", str(folder),
        "--implementation", "cp", "--python-version", image.version, *platforms, *requirements,
    )  # fmt: skip


def _build_sources(folder: Path) -> None:
    """Make wheels of source archives, as some packages are published without wheels."""
    for path in sorted([*folder.glob("*.tar.gz"), *folder.glob("*.zip")]):
        _run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(path))
        path.unlink()


def _run_pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"pip {words[0]} did not end in {_PIP_SECONDS // 60} minutes. Check the network, "
            "then run the same again."
        ) from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise EngineError(
            f"pip {words[0]} failed: {' '.join(said[-3:]) or 'it printed nothing'}. It needs the "
            "package index: check the network and pip config list, then run the same again."
        )


def _pack_own_wheel(folder: Path) -> None:
    """Write this package as a wheel: the files that run now, whichever way they were installed.

    References
    ----------
    https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    # In a checkout, a build's egg-info may be found first; it has no METADATA.
    own = next(d for d in metadata.distributions(name=PACKAGE) if d.read_text("METADATA"))
    root = Path(__file__).parents[1]
    info = f"{PACKAGE}-{own.version}.dist-info"
    parts = {
        path.relative_to(root.parent).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    licences = [f"licenses/{p.name}" for p in own.files or () if p.parent.name == "licenses"]
    for name in ("METADATA", "entry_points.txt", *licences):
        if text := own.read_text(name):
            parts[f"{info}/{name}"] = text.encode()
    tag = "py3-none-any"
    about = f"Wheel-Version: 1.0\nGenerator: {PACKAGE}\nRoot-Is-Purelib: true\nTag: {tag}\n"
    parts[f"{info}/WHEEL"] = about.encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in parts.items()]
    parts[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{PACKAGE}-{own.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as members:
        for name, data in parts.items():
            # A fixed date, so that the same files give the same wheel.
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            members.writestr(member, data, compress_type=zipfile.ZIP_DEFLATED)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _read_freeze(path: Path) -> dict[str, Version | None]:
    """Return the versions in a ``pip freeze``: ``name==version``, or ``name @ place`` without."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Give a file that pip freeze wrote in the image."
        ) from error
    found: dict[str, Version | None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith(("#", "-")):  # comments; -e and other options
            continue
        try:
            one = Requirement(text)
            found[canonicalize_name(one.name)] = _read_pin(one)
        except InvalidRequirement as error:
            raise InputError(
                f"{path}: line {number}: found {text[:60]!r}; expected name==version, as pip "
                "freeze writes it."
            ) from error
    if missing := sorted(OF_THE_IMAGE - set(found)):
        raise InputError(
            f"{path}: does not list {' and '.join(missing)}, which the image must hold. Give the "
            "pip freeze of an image with a GPU."
        )
    return found


def _read_pin(one: Requirement) -> Version | None:
    pins = [spec.version for spec in one.specifier if spec.operator in ("==", "===")]
    try:
        return Version(pins[0]) if pins else None
    except InvalidVersion:  # older than the rules for versions; pip freeze writes it after ===
        return None
