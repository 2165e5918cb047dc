"""The hospital's process: guards the data and trains on it."""
