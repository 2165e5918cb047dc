"""Tamper-evident logs: what is written down on both sides, and how anybody can check it."""
