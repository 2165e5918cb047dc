"""Data sets that ship inside installed packages."""
