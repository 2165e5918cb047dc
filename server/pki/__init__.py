"""The server's two authorities, and who is let into the federation and out of it."""
