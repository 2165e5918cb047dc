"""How updates are combined, protected and accounted for; both sides of every protocol."""
