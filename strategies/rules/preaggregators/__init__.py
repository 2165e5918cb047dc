"""Pre-aggregators: n vectors to mixtures of them, which a rule then combines."""
