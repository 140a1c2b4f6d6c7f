"""Which pods other pods have rules about, as counts."""
