"""How updates are protected, combined and accounted for: mathematics and protocols without I/O."""
