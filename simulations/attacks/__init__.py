"""Attacks: sites of a simulation that follow the protocol and lie."""
