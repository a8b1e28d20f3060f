"""The icons: drawn here, inline, in the colour of the text beside them. None of them says anything alone."""

from __future__ import annotations

__all__ = ["ICONS", "MARK"]

_STROKES = {
    "home": '<path d="M4 11.5 12 4.5l8 7"/><path d="M6.5 10v9.5h11V10"/><path d="M10 19.5v-5h4v5"/>',
    "train": '<path d="M4 19.5h16"/><path d="M5 15.5c3.5 0 4-9 8-9 2.4 0 3.4 2.6 6 2.6"/><circle cx="19" cy="9" r="1.4"/>',
    "jobs": '<circle cx="12" cy="12" r="8"/><path d="M12 7.5V12l3 2"/>',
    "adapters": '<path d="M12 4 4.5 8 12 12l7.5-4z"/><path d="m4.5 12 7.5 4 7.5-4"/><path d="m4.5 16 7.5 4 7.5-4"/>',
    "rebase": '<circle cx="7" cy="6" r="2"/><circle cx="7" cy="18" r="2"/><circle cx="17" cy="9" r="2"/>'
    '<path d="M7 8v8M17 11c0 4-10 2-10 5"/>',
    "theme": '<path d="M19.5 14.3A8 8 0 0 1 9.7 4.5a8 8 0 1 0 9.8 9.8z"/>',
    "data": '<rect x="4.5" y="5" width="15" height="14" rx="2"/><path d="M4.5 10h15M4.5 14.5h15M10 10v9"/>',
    "down": '<path d="M12 4.5v10"/><path d="m7.5 10.5 4.5 4.5 4.5-4.5"/><path d="M5 19.5h14"/>',
    "ok": '<path d="m5.5 12.5 4.2 4.2 8.8-9.4"/>',
    "warn": '<path d="M12 5 3.8 19h16.4z"/><path d="M12 10.5v4"/><path d="M12 16.8v.2"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="2"/>',
    "ask": '<path d="M8.5 9a3.5 3.5 0 1 1 5 3.200c-1 .5-1.5 1.200-1.5 2.300"/><path d="M12 18.200v.1"/>',
    "arrow": '<path d="M5 12h13"/><path d="m13 7 5 5-5 5"/>',
}
ICONS = {
    name: f'<svg class="wb-icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">{strokes}</svg>'
    for name, strokes in _STROKES.items()
}
MARK = (
    '<svg class="wb-mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9"/>'
    '<path d="M9 22V10"/><path d="M9 17c6 0 8-1 8-7"/><circle cx="9" cy="22.5" r="2"/><circle cx="9" cy="9.5" r="2"/>'
    '<circle cx="17" cy="9.5" r="2"/><path class="free" d="M19 9.5h4"/></svg>'
)
