"""The scans' way through the engine, with a small network: what fails on one is put off."""

import json
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.encode import encode_labels
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.nnunet.child import inference
from gi2nnunet.nnunet.child.inference import code_bits, count_readers, decide, run_prediction
from gi2nnunet.nnunet.child.network import Network
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

    def run(self, **options):
        run_prediction(
            emit=self.events.append, models=[str(self.model)], scans=self.scans, device="cpu",
            mirroring=False, step_size=0.5, threads=1, nifti_folder=None, trust=False, **options,
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


def test_several_readers_keep_the_order_and_no_more_scans_are_read_ahead(bench, monkeypatch):
    monkeypatch.setattr(inference, "count_readers", lambda scans, device: 3)
    reading, most, lock = [0], [0], threading.Lock()
    read = NiftiScan.read

    def read_slowly(scan):
        with lock:
            reading[0] += 1
            most[0] = max(most[0], reading[0])
        time.sleep(0.3 if scan.scan_id == "s0" else 0.1)
        with lock:
            reading[0] -= 1
        return read(scan)

    monkeypatch.setattr(NiftiScan, "read", read_slowly)
    bench.fails = {("read", "s1"): lack, ("infer", "s4"): break_off}
    with pytest.raises(EngineError, match="s1: MemoryError\ns4: RuntimeError"):
        bench.run()
    assert bench.names() == ["s0", "s2", "s3", "s5"]
    assert most[0] == 3


def test_readers_are_bounded_by_cores_and_memory(monkeypatch):
    scans = [{"scan": {"shape": (144, 266, 266)}}, {"scan": {"shape": (1, 1, 1)}}]
    scan_bytes = 64 * 144 * 266 * 266

    def count(device, *, cores, scans_of_memory):
        memory = SimpleNamespace(available=scans_of_memory * scan_bytes)
        monkeypatch.setattr(inference.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(inference, "count_cores", lambda: cores)
        return count_readers(scans, device=device)

    assert count("cpu", cores=64, scans_of_memory=100) == 1
    assert count("cuda", cores=64, scans_of_memory=100) == 4
    assert count("cuda", cores=5, scans_of_memory=100) == 2
    assert count("cuda", cores=64, scans_of_memory=6) == 3
    assert count("cuda", cores=1, scans_of_memory=0) == 1


def test_a_folds_weights_are_loaded_once(tmp_path, bench, monkeypatch):
    bench.model = write_model(tmp_path / "more", folds=(0, 1))
    for task, folds in zip(bench.scans, ([0], [0, 1], [0, 1], [1], [1], [0]), strict=True):
        task["folds"] = folds
    loaded, load = [], Network._read_checkpoint
    monkeypatch.setattr(
        Network, "_read_checkpoint", lambda self, fold: (loaded.append(fold), load(self, fold))[1]
    )
    bench.run()
    assert loaded == [0, 1, 0]


def make_network(tmp_path, *, folds=(0, 1), backward=None):
    model = write_model(tmp_path, folds=folds)
    if backward:
        plans = json.loads((model / "plans.json").read_text())
        forward = [backward.index(axis) for axis in range(3)]
        plans |= {"transpose_forward": forward, "transpose_backward": backward}
        (model / "plans.json").write_text(json.dumps(plans))
    return Network(model, fold=folds[0], device="cpu", mirroring=False, step_size=0.5, trust=False)


def make_image(shape=(6, 40, 36)):
    image = np.zeros(shape, np.uint16)
    image[1:5, 3:, :-7] = np.random.default_rng(2).integers(1, 900, image[1:5, 3:, :-7].shape)
    return image


def test_weights_that_a_card_has_no_room_for_give_the_same_logits(tmp_path, monkeypatch):
    network = make_network(tmp_path)
    prepared = network.prepare(make_image(), spacing_mm=(3.0, 3.0, 3.0))
    expected = [network.infer(prepared, [0, 1]) for _ in range(2)]
    network.folds_at_once = 1
    monkeypatch.setattr(network, "_count_staying", lambda: 1)
    moved = []
    to = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, place: (moved.append(place), to(self, place))[1]
    )
    for wanted in expected:
        assert torch.equal(network.infer(prepared, [0, 1]), wanted)
    assert moved.count("cpu") == 2


@pytest.mark.parametrize("backward", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_masks_made_on_the_device_are_those_of_the_probabilities(tmp_path, backward):
    network = make_network(tmp_path, backward=backward)
    image = make_image()
    prepared = network.prepare(image, spacing_mm=(3.0, 3.0, 3.0))
    assert prepared.data.shape[1:] != image.shape  # cropped
    logits = network.infer(prepared, [0, 1])
    expected = decide([network.finish(logits, prepared)], regions=True)
    assert network.describe_grid(logits, prepared) is not None
    found = network.restore(code_bits([logits]).numpy(), prepared)
    assert len(np.unique(found)) > 4
    np.testing.assert_array_equal(found, expected)


def test_what_is_resampled_does_not_lie_on_the_scans_grid(tmp_path):
    network = make_network(tmp_path)
    prepared = network.prepare(make_image(), spacing_mm=(3.0, 1.5, 1.5))
    assert network.describe_grid(network.infer(prepared, [0]), prepared) is None


@pytest.mark.parametrize("configurations", [1, 2, 3, 5])
def test_bit_codes_and_decisions_are_those_of_the_mean_probability(configurations):
    random = torch.Generator().manual_seed(configurations)
    logits = [
        (4 * torch.randn(3, 5, 21, 19, generator=random)).half() for _ in range(configurations)
    ]
    for values in logits:
        values[:, 0] = 0  # exactly one half is no organ
        values[0, 1], values[1, 1] = 6e-8, 1e-3
    probabilities = [values.float().sigmoid().numpy() for values in logits]
    mean = np.add.reduce(probabilities) / configurations
    expected = ((mean > 0.5) * np.array([1, 2, 4]).reshape(3, 1, 1, 1)).sum(0)
    assert set(np.unique(expected)) == set(range(8))
    np.testing.assert_array_equal(decide(probabilities, regions=True), expected)
    np.testing.assert_array_equal(code_bits(logits).numpy(), expected)
    likeliest = decide(probabilities, regions=False)
    np.testing.assert_array_equal(likeliest, np.array([0, 1, 2])[mean.argmax(0)])


def test_the_same_rows_with_and_without_stored_probabilities(bench, tmp_path):
    bench.run()
    (tmp_path / "kept").mkdir()
    once, bench.events = bench.events, []
    bench.inferred.clear()
    bench.run(probability_folders=[str(tmp_path / "kept")])
    assert [event["rows"] for event in once] == [event["rows"] for event in bench.events]
    assert len(list((tmp_path / "kept").iterdir())) == 6


def test_a_prediction_starts_without_what_only_trainings_need():
    heavy = ["torch._dynamo", "seaborn", "matplotlib", "nnunetv2.training.nnUNetTrainer"]
    code = (
        "import sys, gi2nnunet.nnunet.child.inference\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
        scan.write_volumes(tmp_path / "out", bit_map)
        rows += encode_scan(scan_id, scan.numbers, bit_map)
    write_submission(tmp_path / "submission.csv", rows)
    for folder in ("organs", "labels"):
        encode_labels(tmp_path / "out" / folder, tmp_path / "o.csv", orientation=orientation)
        assert (tmp_path / "o.csv").read_text() == (tmp_path / "submission.csv").read_text()
