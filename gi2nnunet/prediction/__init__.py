"""Predictions: which models, which scans, how honest the score, and the run itself."""
