"""Whether a command shows a progress bar."""

import sys


def verbose():
    """A progress bar where somebody watches, once it takes long."""
    return "auto" if sys.stdout.isatty() else 0
