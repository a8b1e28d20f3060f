"""A place for one file, chosen or dropped. The browser sends it to `uploads.py` and gets a token for it."""

from __future__ import annotations

import gradio as gr

from workbench.words import Words
from workbench_ui.uploads import TYPES

__all__ = ["chosen", "file_drop"]

# Errors are shown by the page's script, like those of events.
_SCRIPT = """
element.addEventListener('change', async (e) => {
  const file = e.target.files?.[0];
  if (!file) return;
  element.querySelector('label').setAttribute('aria-busy', 'true');
  const answer = await window.wbUpload(file);
  element.querySelector('label')?.removeAttribute('aria-busy');
  e.target.value = '';
  if (answer) trigger('uploaded', {token: answer.token});
});
element.addEventListener('click', (e) => { if (e.target.closest('button')) trigger('cleared', {}); });
"""
_TEMPLATE = """{{#if name}}<p class="wb-drop"><strong>{{name}}</strong><button type="button" class="wb-button">{{remove}}</button></p>
{{else}}<label class="wb-drop"><span>{{choose}}</span><span class="busy">{{sending}}</span>
<input type="file" accept="{{types}}"></label>{{/if}}"""


def file_drop(t: Words) -> gr.HTML:
    """An empty place; listen to its events `uploaded`, which carries the `token`, and `cleared`."""
    return gr.HTML(
        name="",
        choose=t("data.file_choose"),
        sending=t("data.file_sending"),
        remove=t("data.file_remove"),
        types=",".join(TYPES),
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT,
        apply_default_css=False,
    )


def chosen(name: str) -> gr.HTML:
    """Returned by an event handler to its place: show the file `name`, or nothing where it is empty."""
    return gr.HTML(name=name)
