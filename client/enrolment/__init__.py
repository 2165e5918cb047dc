"""How a site joins a federation, and stays in it."""
