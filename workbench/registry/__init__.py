"""The registry of adapters: versions, aliases, lineage, trash, import and export."""
