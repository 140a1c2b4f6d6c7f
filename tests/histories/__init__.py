"""Random histories of small clusters, lived through by the production loop: what holds once must hold over time.

``python -m tests.histories --worlds 10000`` counts what must never be.
"""
