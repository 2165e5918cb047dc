"""What the server keeps: its folder and keys, its database, and sealed files."""
