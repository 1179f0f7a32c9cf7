"""The commands as calls, for notebooks and scripts: the same names, keywords and defaults.

Every option of a command is a keyword of its call, under the name of the command's Python parameter
(``--fold`` is ``fold``, ``--id`` is ``dataset_id``). What a command prints, its call returns;
progress goes to callbacks. They all stand in :mod:`gi2nnunet` itself. A call wires the library's
deeper functions together; where more is to be decided, use these.
"""
