"""Seconds that another program takes for an RTSTRUCT; run in that program's environment.

Arguments: the task, the folder of images, and files. The last line printed is JSON.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path


def write_rt_utils(images, masks, out):
    import numpy as np
    from rt_utils import RTStructBuilder

    names = ("Bowel_Large", "Bowel_Small", "Stomach")
    arrays = dict(zip(names, np.moveaxis(np.load(masks), 1, -1), strict=True))
    start = time.perf_counter()
    structures = RTStructBuilder.create_new(dicom_series_path=images)
    for name, mask in arrays.items():
        structures.add_roi(mask=mask, name=name)
    structures.save(out)
    return time.perf_counter() - start


def read_rt_utils(images, file):
    from rt_utils import RTStructBuilder

    start = time.perf_counter()
    structures = RTStructBuilder.create_from(dicom_series_path=images, rt_struct_path=file)
    for name in structures.get_roi_names():
        structures.get_roi_mask_by_name(name)
    return time.perf_counter() - start


def read_dcmrtstruct2nii(images, file):
    from dcmrtstruct2nii import dcmrtstruct2nii

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        dcmrtstruct2nii(file, images, folder, gzip=False, convert_original_dicom=False)
        return time.perf_counter() - start


def read_dicomrttool(images, file):
    from DicomRTTool.ReaderWriter import DicomReaderWriter, ROIAssociationClass

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(images, Path(folder) / "all")
        shutil.copy(file, Path(folder) / "all")
        start = time.perf_counter()
        reader = DicomReaderWriter(arg_max=False, verbose=False)
        reader.walk_through_folders(folder)
        names = ["bowel_large", "bowel_small", "stomach"]
        reader.set_contour_names_and_associations(
            contour_names=names, associations=[ROIAssociationClass(name, [name]) for name in names]
        )
        reader.set_index(next(iter(reader.series_instances_dictionary)))
        reader.get_images_and_mask()
        return time.perf_counter() - start


task = globals()[sys.argv[1]]
print(json.dumps({"seconds": task(*sys.argv[2:])}))
