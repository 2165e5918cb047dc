"""Executors: how a block of local trainings is computed."""
