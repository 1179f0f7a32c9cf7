"""Plan every preset for the competition's own scans, from their sizes alone, and count the work.

    python scripts/stock_plans.py

Prints the rows of gi2nnunet/nnunet/stock.py. No image is needed: nnU-Net's planners look only at
sizes and spacings, which are public.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.presets import CONFIGURATIONS, PRESETS
from gi2nnunet.training.need import GEOMETRIES
from gi2nnunet.training.plan import read_planned

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
    """Write what nnU-Net would have found in the scans, as far as its planners look at it."""
    shapes, spacings = [], []
    for shape, spacing_mm, count in GEOMETRIES:
        shapes += [list(shape)] * count
        spacings += [list(spacing_mm)] * count
    write_json(raw / "dataset.json", {**DATASET_JSON, "numTraining": len(shapes)})
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / part).mkdir()
        for number in range(len(shapes)):
            (raw / part / f"case{number}_day0{ending}.nii.gz").touch()
    keys = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
    write_json(
        preprocessed / "dataset_fingerprint.json",
        {
            "shapes_after_crop": shapes,
            "spacings": spacings,
            "median_relative_size_after_cropping": 1.0,
            "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(keys, 1.0)},
        },
    )


def main() -> None:
    """Plan, count, print."""
    with tempfile.TemporaryDirectory() as folder:
        space = open_workspace(Path(folder), environ={})
        raw, preprocessed = space.raw / NAME, space.preprocessed / NAME
        raw.mkdir(parents=True)
        preprocessed.mkdir(parents=True)
        write_fingerprint(raw, preprocessed)
        engine = Engine(workspace=space, environ=os.environ)
        log = engine.new_log("plan")
        for preset in PRESETS.values():
            planned = engine.run(
                "plan",
                {
                    "dataset_id": 501, "planner": preset.planner, "plans_name": preset.plans_name,
                    "data_name": preset.plans_name, "tiny": preset.name == "tiny",
                    "batch_size": None, "patch_sizes": {},
                },
                log=log,
            )  # fmt: skip
            mark = preprocessed / f"gi2nnunet_{preset.plans_name}.json"
            write_json(mark, {"configurations": planned["configurations"]})
            counted = engine.run(
                "count",
                {
                    "plans_file": str(preprocessed / f"{preset.plans_name}.json"),
                    "dataset_json": str(raw / "dataset.json"),
                    "configurations": list(CONFIGURATIONS),
                },
                log=log,
            )["configurations"]  # fmt: skip
            for name, found in read_planned(preprocessed, preset.plans_name).items():
                if name in counted:
                    count = counted[name]
                    print(
                        f'    ("{preset.name}", "{name}"): _Stock({found.batch_size}, '
                        f"{found.patch_size}, {found.spacing_mm}, "
                        f"{count['forward_flops'] / 1e9:.1f}, {count['parameters'] / 1e6:.2f}),"
                    )


if __name__ == "__main__":
    main()
