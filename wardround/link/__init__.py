"""The wire between the server and the sites' agents: one stream for each site, which its agent opens."""
