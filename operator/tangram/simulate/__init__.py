"""The production loop in another world, on another clock."""
