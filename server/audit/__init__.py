"""The server's audit log: what is written into it, and who has co-signed its heads."""
