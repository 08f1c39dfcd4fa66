"""A bit width for each layer within a budget of bytes, by a greedy rule."""

import math


def packed_bytes(num_weights, bits):
    """Bytes of so many codes of `bits` bits, one after the other."""
    return math.ceil(num_weights * bits / 8)


def choose_bits(costs, sizes, budget):
    """Spends a budget of bytes where it lowers the sum of costs most.

    All layers begin at their smallest size. Then, again and again, that step
    of one layer to a larger size is taken which fits in what is left of the
    budget and lowers the cost most for each byte.

    The sum of costs is the smallest one for the size that is reached as long
    as every step fitted in the budget: greedy steps follow the lower convex
    hull of cost over size. Where the best step no longer fits, another choice
    may be better (a knapsack problem).

    Args:
        costs: Dict from layers to dicts from bits to costs.
        sizes: Dict from layers to dicts from bits to bytes.
        budget: Int, bytes.

    Returns:
        Dict from layers to bits.

    Raises:
        ValueError: If the smallest sizes exceed the budget.

    Example:

    >>> costs = {"a": {1: 4.0, 2: 0.0}, "b": {1: 2.0, 2: 1.0}}
    >>> choose_bits(costs, {"a": {1: 8, 2: 16}, "b": {1: 8, 2: 16}}, 24)
    {'a': 2, 'b': 1}
    """
    chosen = {name: min(size, key=size.get) for name, size in sizes.items()}
    left = budget - sum(sizes[name][b] for name, b in chosen.items())
    if left < 0:
        raise ValueError(
            "`size_budget_bytes` must be at least "
            f"{budget - left:,}, which the layers take at their fewest bits. "
            f"Received: size_budget_bytes={budget!r}"
        )
    while True:
        steps = [
            (gain / more, name, bits)
            for name, old in chosen.items()
            for bits, size in sizes[name].items()
            if 0 < (more := size - sizes[name][old]) <= left
            and (gain := costs[name][old] - costs[name][bits]) > 0
        ]
        if not steps:
            return chosen
        _, name, bits = max(steps)
        left -= sizes[name][bits] - sizes[name][chosen[name]]
        chosen[name] = bits
