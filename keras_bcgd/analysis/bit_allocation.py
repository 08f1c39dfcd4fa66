"""A bit width for each layer within a budget of bytes, by a greedy rule."""

import math
import numbers


def packed_bytes(num_weights, bits):
    """Bytes of so many codes of `bits` bits, one after the other."""
    return math.ceil(num_weights * bits / 8)


def choose_bits(costs, sizes, budget):
    """Spends a budget of bytes where it lowers the sum of costs most.

    All layers begin at their smallest size. Then, again and again, that step
    of one layer to a larger size is taken which fits in what is left of the
    budget and lowers the cost most for each byte. The same is done from every
    bit width that fits for all layers alike, and the choice with the smallest
    sum of costs is taken: it is never worse than a uniform one.

    The sum of costs is the smallest one for the size that is reached as long
    as every step fitted in the budget: greedy steps follow the lower convex
    hull of cost over size. Where the best step no longer fits, another choice
    may be better (a knapsack problem).

    Args:
        costs: Dict from layers to dicts from bits to costs. A NaN counts as
            infinite.
        sizes: Dict from layers to dicts from bits to bytes.
        budget: Number of bytes.

    Returns:
        Dict from layers to bits.

    Raises:
        ValueError: If the smallest sizes exceed the budget, or it is no
            number.

    Example:

    >>> costs = {"a": {1: 4.0, 2: 0.0}, "b": {1: 2.0, 2: 1.0}}
    >>> choose_bits(costs, {"a": {1: 8, 2: 16}, "b": {1: 8, 2: 16}}, 24)
    {'a': 2, 'b': 1}
    """
    smallest = {name: min(size, key=size.get) for name, size in sizes.items()}
    least = _total(sizes, smallest)
    is_number = isinstance(budget, numbers.Real)
    if not is_number or isinstance(budget, bool) or not budget >= least:
        raise ValueError(
            f"`size_budget_bytes` must be at least {least:,}, which the layers "
            "take at their fewest bits. "
            f"Received: size_budget_bytes={budget!r}"
        )
    costs = {
        name: {
            bits: math.inf if math.isnan(cost) else cost
            for bits, cost in row.items()
        }
        for name, row in costs.items()
    }
    common = set.intersection(*(set(size) for size in sizes.values()))
    uniform = [dict.fromkeys(sizes, bits) for bits in sorted(common)]
    starts = [smallest, *(u for u in uniform if _total(sizes, u) <= budget)]
    choices = [_greedy(costs, sizes, budget, start) for start in starts]
    return min(choices, key=lambda chosen: _total(costs, chosen))


def _total(numbers_by_bits, chosen):
    return sum(numbers_by_bits[name][bits] for name, bits in chosen.items())


def _greedy(costs, sizes, budget, start):
    """The best step for its bytes, until none that fits is left."""
    chosen = dict(start)
    left = budget - _total(sizes, chosen)
    while True:
        steps = [
            (gain / more, -more, name, bits)
            for name, old in chosen.items()
            for bits, size in sizes[name].items()
            if 0 < (more := size - sizes[name][old]) <= left
            and (gain := costs[name][old] - costs[name][bits]) > 0
        ]
        if not steps:
            return chosen
        _, negative, name, bits = max(steps)
        left += negative
        chosen[name] = bits
