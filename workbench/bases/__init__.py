"""Open-weight bases: the catalogue, the sources, the lock and the folder they are kept in."""
