"""The work on the scans of one conversion.

It is spread over threads: decoding PNGs and compressing volumes, which is nearly all of it,
releases Python's lock, so that threads fill the cores without the start-up time, the copies and
the memory of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import EngineError, InputError, Problem
from gi2nnunet.core.files import read_json, replace_file, write_json
from gi2nnunet.core.progress import Progress, ignore
from gi2nnunet.dataset.manifest import image_name_of, label_name_of
from gi2nnunet.formats.ids import LabelScheme, patient_of
from gi2nnunet.formats.labels import to_exclusive
from gi2nnunet.formats.submission import encode_rows
from gi2nnunet.formats.volumes import encode_volume
from gi2nnunet.source.dataset import DatasetPart
from gi2nnunet.source.scan import Source


@dataclass(frozen=True, kw_only=True)
class ScanWriter:
    """Writes scans into a dataset folder that is being made, and remembers which are done.

    Attributes
    ----------
    source
        Where they come from.
    folder
        The folder being made.
    notes
        Where a note of each finished scan is kept.
    scheme
        How labels are coded.
    """

    source: Source
    folder: Path
    notes: Path
    scheme: LabelScheme

    def find_done(self, scan_id: str, part: DatasetPart) -> dict[str, Any] | None:
        """Return the record of a scan whose files were all written by an earlier run."""
        record = read_json(self.notes / f"{scan_id}.json")
        if record.get("part") != part:
            return None
        try:
            for name, described in record["files"].items():
                path = self.folder / name
                if not path.is_file() or path.stat().st_size != described["bytes"]:
                    return None
        except (KeyError, TypeError, AttributeError):  # a damaged note: the scan is made anew
            return None
        return record

    def write(self, scan_id: str, part: DatasetPart) -> dict[str, Any] | tuple[Problem, ...]:
        """Convert one scan.

        Returns
        -------
        dict or tuple
            Its record; or what is wrong with it, and then nothing was written.

        Raises
        ------
        InputError
            Where a file cannot be read.
        OutputError
            Where a file cannot be written.
        """
        scan = self.source.scans[scan_id].load()
        if scan.problems:
            return scan.problems
        files = {}
        content = encode_volume(scan.image, spacing_mm=scan.spacing_mm)
        files[image_name_of(scan_id, part)] = self._write_file(
            image_name_of(scan_id, part), content
        )
        record: dict[str, Any] = {
            "scan_id": scan_id,
            "patient_id": patient_of(scan_id),
            "part": part,
            "first_number": scan.first_number,
            "shape": list(scan.image.shape),
            "spacing_mm": list(scan.spacing_mm),
            "labelled": scan.label_map is not None,
            "files": files,
        }
        if scan.eight_bit:
            record["slices_of_8_bits"] = scan.eight_bit
        if scan.label_map is not None:
            labels = to_exclusive(scan.label_map) if self.scheme == "exclusive" else scan.label_map
            content = encode_volume(labels, spacing_mm=scan.spacing_mm)
            name = label_name_of(scan_id, part)
            files[name] = self._write_file(name, content)
            if self.source.scans[scan_id].rows is None:
                record["rows"] = encode_rows(scan.label_map)
        write_json(self.notes / f"{scan_id}.json", record)
        return record

    def _write_file(self, name: str, content: bytes) -> dict[str, Any]:
        replace_file(self.folder / name, content)
        return describe_content(content)


def describe_content(content: bytes) -> dict[str, Any]:
    """Return what the manifest tells of a file: its size and SHA-256."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_scans(
    writer: ScanWriter,
    parts: Mapping[str, DatasetPart],
    *,
    workers: int,
    progress: Progress | None,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Convert all scans that an earlier run has not, a few at a time.

    Parameters
    ----------
    writer
        Where from and where to.
    parts
        Which scans, and into which part of the dataset.
    workers
        Scans in work, and in memory, at once.
    progress
        Told ``(done, total, what)`` in scans.

    Returns
    -------
    tuple
        Each scan's record in the order of ``parts``, and what is wrong with the source.

    Raises
    ------
    OutputError
        Where a file cannot be written; what is written stays for the next run.
    EngineError
        Where the memory does not suffice.
    """
    done: dict[str, dict[str, Any]] = {}
    wrong: dict[str, Iterable[object]] = {}
    report = progress or ignore
    for scan_id, part in parts.items():
        if record := writer.find_done(scan_id, part):
            done[scan_id] = record
    report(len(done), len(parts), "converting scans")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convert")
    try:
        running = {
            pool.submit(writer.write, scan_id, part): scan_id
            for scan_id, part in parts.items()
            if scan_id not in done
        }
        for future in as_completed(running):
            scan_id = running.pop(future)
            try:
                result = future.result()
            except InputError as error:
                wrong[scan_id] = [error]
                continue
            if isinstance(result, tuple):
                wrong[scan_id] = result
            else:
                done[scan_id] = result
            report(len(done) + len(wrong), len(parts), "converting scans")
    except MemoryError as error:
        raise EngineError(
            f"The memory does not suffice for {workers} scans at once. Take fewer jobs."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    records = {scan_id: done[scan_id] for scan_id in parts if scan_id in done}
    return records, [str(one) for scan_id in parts for one in wrong.get(scan_id, ())]
