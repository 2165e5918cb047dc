"""The trainer: user code and data, without keys and without network."""
