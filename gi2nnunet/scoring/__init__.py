"""Scores of masks: the competition's metric, medical measures, comparisons."""
