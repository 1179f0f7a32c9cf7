"""The scans' way through the engine, with a small network: what fails on one is put off."""

import weakref

import nibabel
import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.encode import encode_labels
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.nnunet.child import inference
from gi2nnunet.nnunet.child.inference import run_prediction
from gi2nnunet.source.nifti import NiftiScan
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions
from tests.model_factory import write_model


class Bench:
    """Six scans; what a step does on the way of a scan is said by name."""

    def __init__(self, folder, monkeypatch):
        self.model = write_model(folder)
        self.scans = []
        for number in range(6):
            name, path = f"s{number}", folder / f"s{number}.nii.gz"
            write_volume(path, np.full((2, 20, 17), number, np.uint16), spacing_mm=(3.0, 3.0, 3.0))
            scan = NiftiScan(
                scan_id=name, part="test", first_number=1, shape=(2, 20, 17),
                spacing_mm=(3.0, 3.0, 3.0), image=path,
            )  # fmt: skip
            self.scans.append({"scan": scan.to_json(), "folds": ["all"], "about": {}})
        self.fails = {}
        self.events = []
        self.inferred = []
        self.left = []
        read, infer, write = NiftiScan.read, inference.Network.infer, inference._Output.write

        def read_or_fail(scan):
            self.fail("read", scan.scan_id)
            return read(scan)

        def infer_or_fail(network, prepared, folds):
            # The networks' turn comes in the order of those scans that were read.
            names = [f"s{number}" for number in range(6)]
            name = [name for name in names if ("read", name) not in self.fails][len(self.inferred)]
            self.inferred.append(name)
            assert [made() for made in self.left] == [None] * len(self.left)
            layer = torch.zeros(10)
            self.left.append(weakref.ref(layer))
            self.fail("infer", name)
            return infer(network, prepared, folds)

        def write_or_fail(output, task, ready, logits):
            self.fail("write", ready.scan.scan_id)
            write(output, task, ready, logits)

        monkeypatch.setattr(NiftiScan, "read", read_or_fail)
        monkeypatch.setattr(inference.Network, "infer", infer_or_fail)
        monkeypatch.setattr(inference._Output, "write", write_or_fail)

    def fail(self, step, name):
        if (step, name) in self.fails:
            raise self.fails[step, name]()

    def run(self):
        run_prediction(
            emit=self.events.append, models=[str(self.model)], scans=self.scans, device="cpu",
            mirroring=False, step_size=0.5, threads=1, nifti_folder=None, trust=False,
        )  # fmt: skip

    def names(self, kind="scan"):
        return [event["scan_id"] for event in self.events if event["event"] == kind]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_every_scan_is_told_in_turn(bench):
    bench.run()
    assert bench.names() == [f"s{n}" for n in range(6)]


def lack():
    return MemoryError()


def break_off():
    return RuntimeError("CUDA out of memory. Tried to\nallocate")


@pytest.mark.parametrize("step", ["read", "infer", "write"])
@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_scan_that_fails_is_put_off_and_named_at_the_end(bench, step, number, capsys):
    bench.fails = {(step, f"s{number}"): break_off}
    with pytest.raises(EngineError) as told:
        bench.run()
    assert str(told.value) == f"s{number}: RuntimeError: CUDA out of memory. Tried to"
    assert bench.names() == [f"s{n}" for n in range(6) if n != number]
    assert "in fail" in capsys.readouterr().err  # the traceback is in the log


def test_scans_that_fail_each_by_itself_are_told_together(bench):
    bench.fails = {("infer", "s0"): lack, ("write", "s2"): break_off, ("read", "s5"): lack}
    with pytest.raises(EngineError) as told:
        bench.run()
    assert str(told.value).splitlines() == [
        "s0: MemoryError", "s2: RuntimeError: CUDA out of memory. Tried to", "s5: MemoryError",
    ]  # fmt: skip
    assert bench.names() == ["s1", "s3", "s4"]


@pytest.mark.parametrize("first", ["read", "infer", "write"])
@pytest.mark.parametrize("second", ["read", "infer", "write"])
def test_two_scans_in_a_row_end_the_run(bench, first, second):
    bench.fails = {(first, "s1"): break_off, (second, "s2"): lack}
    with pytest.raises(EngineError, match=r"s1: RuntimeError: .*\ns2: MemoryError"):
        bench.run()
    assert bench.names() == ["s0"]


def test_a_scan_that_cannot_be_read_is_no_failure_and_no_success(bench):
    def refuse():
        return InputError("cut off")

    bench.fails = {("write", "s1"): lack, ("read", "s2"): refuse, ("infer", "s4"): lack}
    with pytest.raises(EngineError, match="s1: MemoryError\ns4: MemoryError"):
        bench.run()
    assert (bench.names(), bench.names("unreadable")) == (["s0", "s3", "s5"], ["s2"])


@pytest.mark.parametrize("step", ["read", "infer", "write"])
def test_a_full_disk_or_a_damaged_model_ends_the_run_at_once(bench, step):
    kinds = [OSError] if step == "read" else [OSError, InputError]
    for kind in kinds:
        bench.events.clear()
        bench.inferred.clear()
        bench.fails = {(step, "s1"): kind}
        with pytest.raises(kind):
            bench.run()
        assert bench.names() == ["s0"]


def test_a_network_that_gives_no_finite_output_is_no_empty_prediction(bench):
    path = bench.model / "fold_all" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["network_weights"]["encoder.stages.0.0.convs.0.norm.weight"][:] = 3e38
    torch.save(checkpoint, path)
    with pytest.raises(EngineError, match=r"s0: RuntimeError: .*output is .*in some voxels"):
        bench.run()
    assert bench.names() == []


@pytest.mark.parametrize("orientation", ["affine", "as-stored"])
def test_the_masks_of_organs_that_are_written_make_the_rows_of_the_submission(
    tmp_path, orientation
):
    rows = []
    generator = np.random.default_rng(4)
    for scan_id, affine in (("case2_day1", np.eye(4)), ("case10_day0", np.diag([-2.0, -2, 3, 1]))):
        path = tmp_path / f"{scan_id}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.uint8), affine), path)
        scan = open_source(path, SourceOptions(orientation=orientation)).scans[scan_id]
        bit_map = generator.integers(0, 8, (4, 5, 6)).astype(np.uint8)
        inference._write_labels(tmp_path / "out", scan, bit_map)
        rows += encode_scan(scan_id, scan.numbers, bit_map)
    write_submission(tmp_path / "submission.csv", rows)
    for folder in ("organs", "labels"):
        encode_labels(tmp_path / "out" / folder, tmp_path / "o.csv", orientation=orientation)
        assert (tmp_path / "o.csv").read_text() == (tmp_path / "submission.csv").read_text()
