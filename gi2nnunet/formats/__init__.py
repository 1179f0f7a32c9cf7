"""Formats, read and written: ids, labels, masks as RLE and CSV, volumes, probabilities."""
