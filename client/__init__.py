"""What the hospital runs: guard (keys, policy, protection), trainer (user code) and data."""
