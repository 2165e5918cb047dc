"""A Flower app whose server learns sums of updates, and no single one."""
