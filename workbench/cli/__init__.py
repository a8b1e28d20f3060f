"""The command `workbench`: parse, call `Workbench`, print. No logic."""
