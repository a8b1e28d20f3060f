"""Bases: the catalogue of open models, where they come from, and the lock that pins one."""
