"""Errors, files, locks and workers: what every other package uses."""
