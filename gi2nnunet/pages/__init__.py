"""The report: one self-contained page of what was trained, how well it does and where it fails."""
