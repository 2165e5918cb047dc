"""The server: starts rounds, gathers contributions, keeps the models."""
