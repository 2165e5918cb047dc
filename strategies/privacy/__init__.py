"""Differential privacy: mechanisms, their events, accountants, and the arithmetic of a site's ledger."""
