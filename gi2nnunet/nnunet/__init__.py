"""Engine: all code that calls nnU-Net, and the models that it leaves behind.

Only the modules in ``child`` import nnU-Net; they run in child processes.
"""
