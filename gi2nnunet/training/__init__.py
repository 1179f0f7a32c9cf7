"""Planning and training, with the checks and estimates before they start."""
