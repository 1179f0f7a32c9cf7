"""Code that runs in the engine's child process: the only code that imports nnU-Net."""
