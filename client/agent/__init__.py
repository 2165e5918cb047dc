"""The agent: the hospital's always-on process. It holds the keys, and runs what the site has approved."""
