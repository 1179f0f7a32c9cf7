#!/bin/sh
# rt-utils 1.2.7: row spacing and column spacing are swapped in the contour points.
# PixelSpacing gives the distance of the rows first, then that of the columns. rt-utils multiplies the column index
# by the first and the row index by the second. Its own reader swaps them back, so a round trip through rt-utils
# gives the very same mask and does not show the fault; a reader that follows DICOM sees the organ elsewhere.
# With PixelSpacing 2.0\1.0, a box in columns 4 to 11 and rows 20 to 25 lies at x 4 to 11 and y 40 to 50 mm.
# Seen: the contour lies at x 8 to 22 and y 20 to 25 mm, and rt-utils reads the same mask back.
# The script ends with 0 while this is so, and with 1 when the points are elsewhere.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'rt-utils==1.2.7' 'pydicom==3.0.2' 'numpy==2.4.6' 'opencv-python-headless==5.0.0.93' --no-deps
env/bin/python - <<'EOF'
import os
import sys

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder


def series(folder, z, rows=32, columns=32, spacing=(1.0, 1.0), slope=None, value=100):
    """Write one MR slice for each z; all pixels have the one value, and slope gives RescaleSlope by slice."""
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    os.mkdir(folder)
    for i, position in enumerate(z):
        d = Dataset()
        d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, uid, frame
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Made^Up", "made-up", "", ""
        d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber = "20200101", "120000", "1", ""
        d.ReferringPhysicianName = d.Manufacturer = d.PositionReferenceIndicator = d.Laterality = ""
        d.Modality, d.SeriesNumber, d.InstanceNumber = "MR", 1, i + 1
        d.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        d.ScanningSequence, d.SequenceVariant, d.ScanOptions = "GR", "NONE", ""
        d.MRAcquisitionType, d.EchoTime, d.RepetitionTime, d.EchoTrainLength = "2D", 2, 4, 1
        d.SliceThickness, d.PixelSpacing = 3, list(spacing)
        d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, position]
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        if slope is not None:
            d.RescaleSlope, d.RescaleIntercept, d.RescaleType = slope[i], 0, "US"
        d.PixelData = np.full((rows, columns), value, np.uint16).tobytes()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
        d.save_as(f"{folder}/{i:03d}.dcm", enforce_file_format=True)


series("mr", [0, 3, 6], spacing=(2.0, 1.0))
mask = np.zeros((32, 32, 3), bool)
mask[20:26, 4:12, 1] = True
rt = RTStructBuilder.create_new(dicom_series_path="mr")
rt.add_roi(mask=mask, name="box")
contour = rt.ds.ROIContourSequence[0].ContourSequence[0]
points = np.array(contour.ContourData, float).reshape(-1, 3)
x, y = points[:, 0], points[:, 1]
rt.save("rt.dcm")
back = RTStructBuilder.create_from(dicom_series_path="mr", rt_struct_path="rt.dcm").get_roi_mask_by_name("box")
print("true place of the box: x 4 to 11 mm, y 40 to 50 mm")
print(f"contour of rt-utils:   x {x.min():g} to {x.max():g} mm, y {y.min():g} to {y.max():g} mm")
print("read back by rt-utils: the same mask" if (back == mask).all() else "read back by rt-utils: another mask")
swapped = (x.min(), x.max(), y.min(), y.max()) == (8, 22, 20, 25)
sys.exit(0 if swapped and (back == mask).all() else 1)
EOF
