"""The plans known beforehand: what nnU-Net plans for scans of the competition's sizes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.presets import CONFIGURATIONS, PRESETS
from gi2nnunet.training.need import STOCK_PLANS
from gi2nnunet.training.prepared import read_planned
from tests.engines import make_engine
from tests.training.test_estimate import GEOMETRIES

pytestmark = pytest.mark.engine

NAME = "Dataset501_UWGI"
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {
        "background": 0, "large_bowel": [1, 3, 5, 7], "small_bowel": [2, 3, 6, 7],
        "stomach": [4, 5, 6, 7],
    },
    "regions_class_order": [1, 2, 4],
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
}  # fmt: skip


def write_fingerprint(raw: Path, preprocessed: Path) -> None:
    """Write what nnU-Net would find in the scans, as far as its planners look at it."""
    scans = [(shape, spacing) for shape, spacing, count in GEOMETRIES for _ in range(count)]
    write_json(raw / "dataset.json", {**DATASET_JSON, "numTraining": len(scans)})
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / part).mkdir()
        for number in range(len(scans)):
            (raw / part / f"case{number}_day0{ending}.nii.gz").touch()
    keys = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
    write_json(
        preprocessed / "dataset_fingerprint.json",
        {
            "shapes_after_crop": [shape for shape, _ in scans],
            "spacings": [spacing for _, spacing in scans],
            "median_relative_size_after_cropping": 1.0,
            "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(keys, 1.0)},
        },
    )


def count(plans: dict[str, Any], name: str) -> tuple[float, float]:
    """Operations of one patch on its way through a planned network, and its parameters."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from torch.utils.flop_counter import FlopCounterMode

    planned = PlansManager(plans).get_configuration(name)
    with torch.device("meta"):  # only shapes: neither memory nor time
        network = get_network_from_plans(
            planned.network_arch_class_name,
            planned.network_arch_init_kwargs,
            planned.network_arch_init_kwargs_req_import,
            1,
            3,
            allow_init=False,
            deep_supervision=True,
        )
        patch = torch.empty(1, 1, *planned.patch_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(patch)
    return counter.get_total_flops(), sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_the_known_plans_are_those_that_nnunet_makes(tmp_path: Path, preset: Any) -> None:
    space = open_workspace(tmp_path, environ={})
    raw, preprocessed = space.raw / NAME, space.preprocessed / NAME
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    write_fingerprint(raw, preprocessed)
    engine = make_engine(space, environ=os.environ)
    options = {
        "dataset_id": 501, "planner": preset.planner, "plans_name": preset.plans_name,
        "data_name": preset.plans_name, "tiny": preset.name == "tiny", "batch_size": None,
        "patch_sizes": {}, "asked": [*CONFIGURATIONS],
    }  # fmt: skip
    made = engine.run("plan", options, log=engine.new_log("plan"), helpers=1)
    mark = preprocessed / f"gi2nnunet_{preset.plans_name}.json"
    write_json(mark, {"recipe": {}, "plans": None, **made})
    planned = read_planned(preprocessed, preset.plans_name)
    plans = json.loads((preprocessed / f"{preset.plans_name}.json").read_text())
    for name in CONFIGURATIONS:
        stock, found = STOCK_PLANS[preset.name, name], planned[name]
        assert (found.batch_size, found.patch_size) == (stock.batch_size, stock.patch_size)
        assert found.spacing_mm == stock.spacing_mm
        operations, parameters = count(plans, name)
        assert operations == pytest.approx(stock.operations, rel=0.005)
        assert parameters == pytest.approx(stock.parameters, rel=0.02)
