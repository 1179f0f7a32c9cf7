"""Refuse a Python that the pinned packages do not support, before anything is downloaded."""

import sys

# PyTorch 2.15 has no build for Python 3.10.
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"found Python {found}; expected 3.11 to 3.13. Name one: make PYTHON=python3.12 ...")
