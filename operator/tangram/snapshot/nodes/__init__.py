"""Nodes and their devices as rows."""
