"""The agent's end of the link: one outbound stream to the server, opened again whenever it breaks."""
