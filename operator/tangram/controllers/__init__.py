"""The life cycle of one object of each kind."""
