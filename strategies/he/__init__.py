"""Homomorphic aggregation and private inference with TenSEAL."""
