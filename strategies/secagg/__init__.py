"""Secure aggregation by masking: the server learns the sum of a group and nothing else."""
