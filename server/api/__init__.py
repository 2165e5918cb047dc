"""The HTTPS interface for people: sessions, and what a coordinator does with sites, plans, runs and models."""
