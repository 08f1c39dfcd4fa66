"""Which constants and factors make rounding to the nearest the staircase.

They keep sums away from the thresholds: ties must go down, and float32 errors
of a fake-quant must not move a sum across.
"""

import numpy as np

# Rounding errors of a fake-quant in float32, in steps.
_NOISE = 2.0**-16


def centred(x, alpha, levels):
    """The constant of `x.linear` such that rounding is the staircase.

    It must be raised by alpha / 2, and may lie a little off that: sums have
    the `spacing` of the inputs times the slope, and no threshold j * alpha may
    come to lie on the other side of one. The middle of the room that is left
    is safe from ties, which must go down, and from rounding errors.
    """
    linear = x.linear
    if x.spacing is None:
        return linear.constant + alpha * (0.5 - 2.0**-14)
    constant = linear.constant[:, None]
    spacing = np.abs(linear.slope[:, None]) * x.spacing
    spacing = np.maximum(spacing, 1e-9 * alpha)
    # From the last sum that stays at a level up to the threshold.
    gap = np.mod(alpha * np.arange(levels) - constant, spacing)
    shift = (gap.max(axis=1) + gap.min(axis=1) - spacing[:, 0]) / 2
    middle = linear.constant + alpha / 2 + shift
    # Without weights there is one value, best in the middle of its step.
    alone = np.ceil(linear.constant / alpha) * alpha
    return np.where(linear.slope, middle, alone)


def shrink(alpha, levels, branch, shortcut, shrinks_both):
    """How much smaller a residual branch is made for ties to go down.

    The staircase of `branch - alpha / 2 + shortcut` rounds up, so that
    `branch + shortcut = (k + 1/2) * alpha` must give k. A factor below 1 on
    the branch does that if it exceeds rounding errors: those of a fake-quant,
    and those of kernels, whose scales have 20 bits. Of the possible ones it is
    the one that moves the fewest other sums across a threshold.
    """
    step = branch[1] - branch[0]
    sums = (branch + shortcut[:, None]) / alpha
    level = np.clip(np.ceil(sums - 0.5 - 1e-7), 0, levels)
    moved = sums if shrinks_both else branch / alpha
    coarsest = max(alpha, step, np.max(np.diff(shortcut), initial=0.0))
    least = max(2.0**-14, 2.0**-19 * coarsest / step)

    def margins(lost):
        rest = np.clip(sums - lost * moved, 0, levels)
        margin = 0.5 - np.abs(rest - level)
        return np.sum(margin > _NOISE), np.min(margin)

    return 1 - max(least * np.geomspace(1, 32, 41), key=margins)
