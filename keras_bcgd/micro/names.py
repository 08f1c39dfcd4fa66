"""The name that the identifiers and files of the sources begin with."""

import pathlib
import re

_RULE = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")

# Of C++20, which has those of C++17.
KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char
    char16_t char32_t char8_t class co_await co_return co_yield compl concept
    const const_cast consteval constexpr constinit continue decltype default
    delete do double dynamic_cast else enum explicit export extern false float
    for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast
    requires return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename
    union unsigned using virtual void volatile wchar_t while xor xor_eq
    """.split()
)


def choose(name, path):
    """The name given, or one made of that of the file.

    Args:
        name: String, or `None`.
        path: String, the file.

    Returns:
        String: letters, digits and single underscores between them.

    Raises:
        ValueError: If the name given is none such, or a keyword.
    """
    if name is None:
        return _of_file(path)
    is_text = isinstance(name, str)
    if is_text and _RULE.fullmatch(name) and name not in KEYWORDS:
        return name
    raise ValueError(
        "`name` must be letters, digits and single underscores between them, "
        "begin with a letter and be no keyword of C++. "
        f"Received: name={name!r}"
    )


def _of_file(path):
    words = re.findall("[A-Za-z0-9]+", pathlib.PurePath(path).stem)
    name = "_".join(words)
    if _RULE.fullmatch(name) and name not in KEYWORDS:
        return name
    return "_".join(["model", *words])
