"""The server's end of the link: the sites that are attached, and what they are asked."""
