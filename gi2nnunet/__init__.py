"""From the UW-Madison GI Tract competition's files to a trained nnU-Net and a scored submission."""
