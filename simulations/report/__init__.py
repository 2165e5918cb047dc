"""The reports that only a simulation has: of a red team, of a sweep, of an audit of privacy."""
