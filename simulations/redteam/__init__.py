"""Attacking one's own federation: rules by attacks by seeds, and which rule to take."""
