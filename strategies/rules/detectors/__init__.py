"""Detectors: contributions to evidence. They take nothing out of a round."""
