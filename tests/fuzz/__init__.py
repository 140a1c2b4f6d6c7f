"""Odd objects through the builder, as many as one likes: ``python -m tests.fuzz --pods 1000000``."""
