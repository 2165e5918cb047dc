"""Runs: what a run directory holds, what is written about a run, and what it is read back from."""
