"""How a simulation deals one data set out to its sites; one partition a file."""
