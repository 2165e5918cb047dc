"""A Flower app with one hospital that attacks, and a server that combines updates by a robust rule."""
