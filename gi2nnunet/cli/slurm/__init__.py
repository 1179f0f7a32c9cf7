"""Slurm: this package's own commands as jobs of a cluster, through submitit."""
