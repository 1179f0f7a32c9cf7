#!/bin/sh
# MONAI 1.6.1: importing monai.metrics sets CUBLAS_WORKSPACE_CONFIG in the environment of the process.
# The variable decides how cuBLAS uses a card's memory, and whether its results are repeatable. Importing torch does not
# set it. Every process that is started later inherits it, a training for example, although only distances were measured.
# Seen: torch sets nothing; monai.metrics sets CUBLAS_WORKSPACE_CONFIG=:4096:8.
# The script ends with 0 while this is so, and with 1 when the import leaves the environment as it is.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'monai==1.6.1' 'torch==2.15.0' 'numpy==2.4.6' 'scipy==1.17.1'
env -u CUBLAS_WORKSPACE_CONFIG env/bin/python - <<'EOF'
import os
import sys

before = dict(os.environ)
import torch  # noqa: F401

by_torch = {name for name in os.environ if os.environ[name] != before.get(name)}
import monai.metrics  # noqa: F401

by_monai = {name for name in os.environ if os.environ[name] != before.get(name)} - by_torch
print("torch sets:", *sorted(by_torch))
print("monai.metrics sets:", *sorted(by_monai), os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
sys.exit(0 if "CUBLAS_WORKSPACE_CONFIG" in by_monai and not by_torch else 1)
EOF
