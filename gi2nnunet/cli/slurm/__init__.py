"""Run this package's own commands as jobs of a Slurm cluster, through submitit.

Beside ``nnunet``: a job runs the command line that a person would run on one machine.
"""
