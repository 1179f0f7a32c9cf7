#!/bin/sh
# blosc2 4.14.1: with more than one thread, the same array is written to .b2nd files of different bytes.
# nnU-Net keeps preprocessed scans in such files. Two files of equal arrays, made by the same code with the same
# parameters, mostly differ if cparams has nthreads=2; with nthreads=1 they are equal. Reading gives equal arrays.
# So a checksum of a preprocessed file says whether that file changed, not whether two runs made the same.
# Seen: 12 files, 12 different contents with 2 threads, 1 with 1 thread; all arrays equal.
# The script ends with 0 while this is so, and with 1 when all files are equal.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'blosc2==4.14.1' 'numpy==2.4.6'
env/bin/python - <<'EOF'
import hashlib
import sys
from pathlib import Path

import blosc2
import numpy as np

array = np.random.default_rng(0).normal(size=(1, 32, 160, 160)).astype(np.float32)
contents = {}
for threads in (1, 2):
    contents[threads] = set()
    for number in range(12):
        file = f"{threads}_{number}.b2nd"
        blosc2.asarray(
            array,
            urlpath=file,
            chunks=(1, 16, 160, 160),
            blocks=(1, 4, 40, 40),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 8, "nthreads": threads},
        )
        contents[threads].add(hashlib.sha256(Path(file).read_bytes()).hexdigest())
        if not np.array_equal(blosc2.open(file, mode="r")[:], array):
            sys.exit("the array that was read is another one")
    print(f"{threads} thread(s): 12 files of the same array, {len(contents[threads])} different contents")
sys.exit(0 if len(contents[1]) == 1 < len(contents[2]) else 1)
EOF
