"""The guard: the only holder of keys; everything between a raw update and the wire. No torch, no flwr."""
