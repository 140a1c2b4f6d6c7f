"""Nodes that are held for whoever is first in line."""
