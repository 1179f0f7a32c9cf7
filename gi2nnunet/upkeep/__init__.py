"""Checks of everything that a workspace holds."""
