"""The coordinator's process."""
