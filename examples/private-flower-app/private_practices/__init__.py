"""A Flower app of many practices with a few patients each, whose model tells of none of them."""
