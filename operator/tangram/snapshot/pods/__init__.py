"""Pods as rows: waiting, running, leaving, and what they ask for."""
