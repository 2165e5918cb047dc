"""The commands of a coordinator: those of the server's own machine, and those that speak HTTPS with a server."""
