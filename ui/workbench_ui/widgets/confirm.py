"""A question before something is stopped or removed: the browser's own dialog, so Escape and focus work as they should."""

from __future__ import annotations

import time

import gradio as gr

from workbench.words import Words

__all__ = ["ask", "confirm"]

# The dialog opens whenever `asked` changes to something; closing it with "yes" triggers `confirmed`.
_SCRIPT = """
element.addEventListener('close', (e) => { if (element.querySelector('dialog').returnValue === 'yes') trigger('confirmed', {}); }, true);
watch('asked', () => { const d = element.querySelector('dialog'); if (props.asked && !d.open) { d.returnValue = ''; d.showModal(); } });
"""
_TEMPLATE = """<dialog class="wb-dialog" aria-labelledby="wb-ask"><h2 id="wb-ask">{{title}}</h2><p>{{text}}</p>
<form method="dialog"><button value="no" class="wb-button" autofocus>{{no}}</button>
<button value="yes" class="wb-button wb-danger">{{yes}}</button></form></dialog>"""


def confirm(t: Words, key: str) -> gr.HTML:
    """A closed dialog with the words `<key>.title`, `.text`, `.yes` and `.no`; listen to its event `confirmed`."""
    return gr.HTML(
        asked="",
        title=t(f"{key}.title"),
        text=t(f"{key}.text"),
        yes=t(f"{key}.yes"),
        no=t(f"{key}.no"),
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT,
        apply_default_css=False,
    )


def ask() -> gr.HTML:
    """Returned by an event handler to its dialog: open it."""
    return gr.HTML(asked=str(time.time()))
