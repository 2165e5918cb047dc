"""Aggregation rules: contributions to one vector and a report."""
