"""The only package that knows nnU-Net: where its files lie, how it is planned, trained and asked.

The modules that import nnU-Net itself (``planner``, ``trainer``, ``inference``) are loaded in child
processes alone, whose environment is built from a :class:`~gi2nnunet.dataset.workspace.Workspace`.
"""
