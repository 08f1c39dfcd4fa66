"""Griffe extension: how docstrings in Keras' form become Markdown.

Griffe knows `Args:`, `Attributes:` and `Raises:`. The other sections become
bold titles here, and a `>>>` example, which stands by itself after the line
`Example:` and which Markdown would take for a quotation, a block of code.
"""

import re
import textwrap

import griffe

PROMPTS = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
SECTION = re.compile(
    r"^(Call arguments|Example|Formula|References|Returns):\n((?:\n| +.*\n?)*)",
    re.MULTILINE,
)


def _code(prompts):
    return f"```pycon\n{prompts[0].rstrip()}\n```\n"


def _titled(section):
    title, text = section.groups()
    text = textwrap.dedent(text)
    if title == "Call arguments":
        text = re.sub(r"^(\w+): ", r"- **`\1`** – ", text, flags=re.MULTILINE)
    return f"**{title}:**\n\n{text}"


class KerasDocstrings(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = PROMPTS.sub(_code, obj.docstring.value)
            obj.docstring.value = SECTION.sub(_titled, text)
