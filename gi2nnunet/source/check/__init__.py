"""Check of a source before training: its measures and what is unusual among them."""
