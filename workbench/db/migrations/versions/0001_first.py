"""Where the steps begin. A new database gets its tables from `workbench.db.tables`, all at once."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: databases of this revision have its tables."""
