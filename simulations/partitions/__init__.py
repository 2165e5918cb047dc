"""How one data set is dealt out to sites."""
