"""What every part of wardround agrees on: plans, orders, frames, update vectors, tallies and errors."""

__version__ = "0.1.0"

__all__ = ["__version__"]
