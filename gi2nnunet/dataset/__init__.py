"""The converted nnU-Net dataset: made, split, described, checked, and turned back into CSV."""
