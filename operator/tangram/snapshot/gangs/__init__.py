"""Gangs and the domains that they are placed in, as rows."""
