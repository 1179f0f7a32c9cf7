"""Search of the post-processing, and comparison of models, on out-of-fold predictions."""
