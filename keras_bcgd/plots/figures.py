"""What the pictures share."""

import itertools

# Told apart by colour-blind readers (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, GOLD, GREY, BLACK = "#56B4E9", "#E69F00", "#999999", "#000000"
_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GOLD, BLACK)
_DASHES = ("-", "--", ":", "-.")


def new_figure(width, height):
    """A figure of so many inches that no window manages.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install keras-bcgd[plots]"
        ) from error
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def styles():
    """Lines that differ by colour, then by dashes as well."""
    for dashes in itertools.cycle(_DASHES):
        for color in _COLORS:
            yield {"color": color, "linestyle": dashes, "linewidth": 1.6}


def whole_epochs(ax):
    """Ticks of whole numbers below, and a light grid."""
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
