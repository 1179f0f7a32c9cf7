#!/bin/sh
# SimpleITK 2.5.7: the first file of an MR series decides the pixel type of the whole volume.
# RescaleSlope may differ by slice. When the slope of the first slice is whole, ImageSeriesReader makes a volume
# of whole numbers and cuts off the fractions of all other slices, without an error.
# Three slices with the stored value 101 and the slopes 1, 0.25 and 0.005 hold 101, 25.25 and 0.505.
# Seen: 101.0, 25.0, 0.0 as 16-bit unsigned integer.
# The script ends with 0 while this is so, and with 1 when the fractions are kept.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'SimpleITK==2.5.7' 'pydicom==3.0.2' 'numpy==2.4.6'
env/bin/python - <<'EOF'
import os
import sys

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
import SimpleITK as sitk


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


slopes = [1, 0.25, 0.005]
series("mr", [0, 3, 6], slope=slopes, value=101)
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames("mr"))
image = reader.Execute()
whole = [float(v) for v in sitk.GetArrayFromImage(image)[:, 0, 0]]
single = [float(sitk.GetArrayFromImage(sitk.ReadImage(f"mr/{i:03d}.dcm"))[0, 0, 0]) for i in range(3)]
print("true values by slice:          ", [101 * s for s in slopes])
print("each file read alone:          ", [round(v, 4) for v in single])
print("series read as one volume:     ", whole, "as", image.GetPixelIDTypeAsString())
sys.exit(0 if whole == [101, 25, 0] else 1)
EOF
