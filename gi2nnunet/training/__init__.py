"""Planning, training, and what to know before either starts."""
