"""The bits of a network: as part of its name, and how fast its alphas learn."""

from absl import app


def of_name(name):
    """`(weight_bits, activation_bits)` of a name as 4w8a."""
    try:
        weights, activations = name.lower().removesuffix("a").split("w")
        return int(weights), int(activations)
    except ValueError:
        raise app.UsageError(
            f"--networks must have names like 4w8a, not {name!r}."
        ) from None


def alpha_multiplier(bits):
    """How much slower alphas learn than weights: .01 if of at most 4 bits.

    Where the staircase ends, alpha times the largest code, is to learn alike
    at all bits. That end moves by the largest code when alpha moves by 1, and
    so does the loss: by the square of it too much in all. With .01 alphas of
    8 bits run away, and the network forgets what it knew.
    """
    return 0.01 * min(1.0, (15 / (2**bits - 1)) ** 2)
