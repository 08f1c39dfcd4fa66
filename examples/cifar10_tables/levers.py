"""The runs that try one lever each beside the recommended recipe.

A lever is a change of the training that others have found to help at few bits.
Each is tried alone, at equal epochs, and those that help together.
"""

from cifar10_tables import cells

# The float start has no share in them: it needs all of the images.
FLOAT_IMAGES = 50000
# Flags of cifar10.py, beside --recipe=recommended.
LEVERS = {
    "bc": {"blending": 0.0},
    "rising_blending": {"blending_end": 1e-3},
    "lsq": {"alpha_gradient_scale": "lsq", "alpha_learning_rate_multiplier": 1},
    # The strength of the weights' L2, on the largest level.
    "alpha_l2": {"alpha_l2": 1e-4 * 15**2},
    "distilled": {"distillation_weight": 0.9},
    "rate_.04": {"learning_rate": 0.04},
    "rate_.1": {"learning_rate": 0.1},
}
# From the network of the next more bits, not from the float one.
PROGRESSIVE = "progressive"
FROM = {"2W4A": "4W4A", "1W4A": "2W4A"}
TOGETHER = "together"
TOGETHER_FLAGS = {"distillation_weight": 0.9}
COLUMNS = ("4W4A", "2W4A", "1W4A")


def cell(net, column, lever=""):
    """The name of a cell; without a lever that of the recommended recipe."""
    parts = [cells.RECOMMENDED, *([lever] if lever else [])]
    return cells.cell_name(net, column, "BCGD", variant="_".join(parts))


def names():
    """All levers, as the tables list them."""
    return [*LEVERS, PROGRESSIVE, TOGETHER]


def runs(plan, net):
    """All runs of a plan for one network, those first that others need.

    Args:
        plan: `plans.Plan`.
        net: String, a network of the slides' tables.

    Returns:
        List of `cells.Run`s.
    """
    common = {"net": net, "recipe": cells.RECOMMENDED}
    common["validation_freq"] = plan.test_every
    start = f"{net}_float_{cells.RECOMMENDED}"
    float_seeds = plan.float_seeds or plan.seeds
    flags = {
        "stage": "float",
        "epochs": plan.float_epochs,
        "learning_rate": plan.float_learning_rate,
        "train_images": FLOAT_IMAGES,
    }
    found = [cells.Run(start, common | flags, seed) for seed in float_seeds]

    def add(column, lever, seed, start, start_seed, flags):
        bits = int(column.partition("W")[0])
        flags = common | {
            "train_images": plan.train_images,
            "epochs": plan.quantized_epochs,
            "weight_bits": bits,
            "activation_bits": 4,
            "reestimate_batch_norm": True,
            **flags,
        }
        name = cell(net, column, lever)
        found.append(cells.Run(name, flags, seed, start, start_seed))

    tried = {"": {}, **LEVERS, TOGETHER: TOGETHER_FLAGS}
    for i, seed in enumerate(plan.seeds):
        float_seed = float_seeds[i % len(float_seeds)]
        for lever, flags in tried.items():
            for column in COLUMNS:
                add(column, lever, seed, start, float_seed, flags)
        for column, more_bits in FROM.items():
            source = cell(net, more_bits)
            add(column, PROGRESSIVE, seed, source, seed, {})
    return found
