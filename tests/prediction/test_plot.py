"""Pictures of predicted scans: which slices, which contours; only a notebook shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import gi2nnunet
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.formats.labels import join_organs
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.prediction.evaluate import Evaluation
from gi2nnunet.prediction.plot import choose_slices, plot_slices
from gi2nnunet.source.arrays import ScanArrays
from tests.source_factory import make_source, write_source

SHAPE = (6, 9, 12)


def make_masks(*, fill: bool = False) -> dict[str, Any]:
    return {organ: np.full(SHAPE, fill) for organ in ORGANS}


def make_scan(masks: dict[str, Any]) -> ScanArrays:
    image = np.random.default_rng(1).integers(0, 900, SHAPE)
    return ScanArrays(
        scan_id="case1_day0", numbers=tuple(range(3, 9)), shape=SHAPE, spacing_mm=(3, 2, 1),
        read_image=lambda _: image, read_masks=lambda _: masks,
    )  # fmt: skip


@pytest.fixture
def prediction(here: Path) -> Evaluation:
    """Every scan's masks, shifted by a pixel, and of one scan without the stomach."""
    write_source(here / "source", make_source())
    dataset = gi2nnunet.convert("source", workspace="w", jobs=1)
    rows = []
    for scan in dataset.scans:
        masks = {
            organ: np.roll(mask, 1, axis=2) for organ, mask in dataset[scan.scan_id].masks.items()
        }
        if scan.scan_id == "case2_day1":
            masks["stomach"][:] = False
        bits = join_organs([masks[organ] for organ in ORGANS])
        rows += encode_scan(scan.scan_id, scan.numbers, bits)
    write_submission(here / "out" / "submission.csv", rows)
    (here / "out" / "truth.csv").write_bytes(dataset.truth_path.read_bytes())
    scans = tuple(dataset.open_scan(scan_id) for scan_id in dataset)
    return Evaluation(
        submission=here / "out" / "submission.csv", standing="held-out",
        score=gi2nnunet.score("out/submission.csv", "out/truth.csv", medical=False), files=(),
        warnings=(), seconds_per_scan=1.0, computing={}, tuned=None, scans=scans,
        sha256=hash_file(here / "out" / "submission.csv"),
    )  # fmt: skip


def test_a_prediction_is_drawn_with_its_worst_slices(prediction: Evaluation) -> None:
    truth = gi2nnunet.open_dataset(workspace="w")
    for scan_id in prediction:
        masks, true = prediction[scan_id].masks, truth[scan_id].masks
        for organ, mask in prediction.read_truth(scan_id).items():
            assert np.array_equal(mask, true[organ])
        found = {}
        for z, number in enumerate(prediction[scan_id].numbers):
            dices = []
            for organ in ORGANS:
                ours, theirs = masks[organ][z], true[organ][z]
                if ours.any() or theirs.any():
                    dices.append(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
            found[number] = np.mean(dices) if dices else 1.0
        figure = prediction.plot(scan_id, most=2)
        shown = [int(axes.get_title().removeprefix("slice ")) for axes in figure.axes]
        wrong = sorted(value for value in found.values() if value < 1)
        assert [found[number] for number in shown]
        assert sorted(found[number] for number in shown) == pytest.approx(wrong[:2])
        assert shown == sorted(shown)
        assert f"{scan_id}, score 0." in figure.get_suptitle()
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []  # nothing else shows it
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_slices_by_number_and_a_prediction_without_truth(prediction: Evaluation) -> None:
    from dataclasses import replace

    scan_id = prediction.scan_ids[0]
    figure = prediction.plot(scan_id, slices=[3, 2])
    assert [axes.get_title() for axes in figure.axes] == ["slice 3", "slice 2"]
    unknown = replace(prediction, score=None)
    assert unknown.read_truth(scan_id) is None
    figure = unknown.plot(scan_id, most=1)
    areas = sum(mask.sum((1, 2)) for mask in unknown[scan_id].masks.values())
    number = unknown[scan_id].numbers[int(np.argmax(areas))]
    assert [axes.get_title() for axes in figure.axes] == [f"slice {number}"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][3:] == ["prediction"]


def test_an_unknown_scan_or_slice_is_named(prediction: Evaluation) -> None:
    dataset = gi2nnunet.open_dataset(workspace="w")
    for call in (
        prediction.plot, prediction.__getitem__, prediction.read_masks, dataset.__getitem__,
        dataset.scan, dataset.read_image,
    ):  # fmt: skip
        with pytest.raises(KeyError, match=r"case2_day11.*near are case2_day1"):
            call("case2_day11")
    for slices in ([], [0], [1, 99]):
        with pytest.raises(ValueError, match=r"slices: .* 1 to"):
            prediction.plot(prediction.scan_ids[0], slices=slices)
    with pytest.raises(ValueError, match="most"):
        prediction.plot(prediction.scan_ids[0], most=0)


def test_contours_go_round_the_masks() -> None:
    ours, true = make_masks(), make_masks()
    ours["stomach"][2, 3:6, 0:4] = True  # at the border
    true["stomach"][2, 2:7, 5:9] = True
    true["large_bowel"][2] = True  # fills the slice
    figure = plot_slices(make_scan(ours), true, slices=[2, 4], title="a")
    first, second = figure.axes
    assert not second.collections  # nothing there
    centres = np.stack(np.meshgrid(np.arange(12), np.arange(9)), axis=-1).reshape(-1, 2)
    drawn = {}
    for lines in first.collections:
        style = "solid" if lines.get_linestyle()[0][1] is None else "dashed"
        inside = lines.get_paths()[0].contains_points(centres).reshape(9, 12)
        drawn[to_hex(lines.get_edgecolor()[0]), style] = inside
    colours = {organ: to_hex(colour) for organ, colour in CONTOUR_COLOURS.items()}
    assert set(drawn) == {
        (colours["stomach"], "dashed"), (colours["stomach"], "solid"),
        (colours["large_bowel"], "solid"),
    }  # fmt: skip
    assert np.array_equal(drawn[colours["stomach"], "dashed"], ours["stomach"][2])
    assert np.array_equal(drawn[colours["stomach"], "solid"], true["stomach"][2])
    assert drawn[colours["large_bowel"], "solid"].all()
    assert first.get_aspect() == 2  # of the voxels


def test_worst_slices_of_equal_dice_are_those_with_more_wrong_pixels() -> None:
    ours, true = make_masks(), make_masks()
    ours["stomach"][1, 0, 0] = ours["stomach"][4, :3, :3] = True  # both are all wrong
    true["small_bowel"][0, :4] = ours["small_bowel"][0, :3] = True
    assert choose_slices(ours, true, most=1) == [4]
    assert choose_slices(ours, true, most=2) == [1, 4]
    assert choose_slices(ours, true, most=6) == [0, 1, 4]  # the others have no error
    assert choose_slices(true, true, most=2) == [0, 1]  # no error: most organ
    assert choose_slices(ours, None, most=1) == [0]


def test_a_notebook_shows_the_figure_once(here: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    code = (
        "import numpy as np\n"
        "from gi2nnunet.prediction.plot import plot_slices\n"
        "from gi2nnunet.source.arrays import ScanArrays\n"
        "masks = {'stomach': np.ones((2, 4, 5), bool)}\n"
        "scan = ScanArrays(scan_id='a', numbers=(1, 2), shape=(2, 4, 5), spacing_mm=(3, 1, 1),\n"
        "    read_image=lambda _: np.arange(40).reshape(2, 4, 5), read_masks=lambda _: masks)\n"
    )
    last = (
        "plot_slices(scan, None, slices=[0], title='a')",
        "x = plot_slices(scan, None, slices=[0], title='a')",
    )
    cells = [nbformat.v4.new_code_cell(code + line) for line in last]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(here)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    (shown,), quiet = (cell.outputs for cell in notebook.cells)
    assert shown.output_type == "execute_result"
    assert "image/png" in shown.data
    assert quiet == []
