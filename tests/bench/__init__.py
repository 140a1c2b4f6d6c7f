"""Benchmarks: ratios taken in one run, printed, never asserted. ``make bench`` runs them."""
