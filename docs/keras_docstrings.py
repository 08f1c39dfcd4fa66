"""Griffe extension: how docstrings in Keras' form become Markdown.

In them a `>>>` example stands by itself after the line `Example:`. Markdown
would take it for a quotation.
"""

import re

import griffe

EXAMPLE = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Puts fences around `>>>` examples."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n",
                obj.docstring.value,
            )
