"""A Flower app as Flower's tutorials write one: nothing in it knows of wardround."""
