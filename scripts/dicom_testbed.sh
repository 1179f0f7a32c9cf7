#!/bin/sh
# What the DICOM tests and scripts/roundtrip_rtstruct.py need from Debian, installed as root where it
# is missing: dciodvfy (dicom3tools), plastimatch, orthanc and the clients of dcmtk. Orthanc is only
# installed, not started.
set -eu

missing=
command -v dciodvfy >/dev/null || missing="$missing dicom3tools"
command -v plastimatch >/dev/null || missing="$missing plastimatch"
command -v Orthanc >/dev/null || missing="$missing orthanc"
command -v storescu >/dev/null || missing="$missing dcmtk"
if [ -n "$missing" ]; then
    apt-get update -qq
    # Another installation may be under way: wait for it. $missing is a list of words.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o DPkg::Lock::Timeout=600 install -y -qq \
        --no-install-recommends $missing
fi
echo "DICOM tests can run: $(plastimatch --version), $(Orthanc --version | head -n 1)," \
    "$(storescu --version | head -n 1)"
