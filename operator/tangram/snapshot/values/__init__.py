"""Values that arrays are made of."""
