"""The runs behind the slides' CIFAR-10 tables, and the slides' numbers.

A run is one call of cifar10.py with certain flags and one seed.
"""

import dataclasses

# The slides' CIFAR-10 tables, %: [alpha derivative][network] is the column
# 32W4A, then BC and BCGD of 1W4A, 2W4A and 4W4A.
PAPER_FLOAT = {"vgg11": 92.13, "resnet20": 92.41}
PAPER = {
    "ae": {
        "vgg11": (91.74, 88.12, 88.74, 89.78, 90.08, 91.51, 91.38),
        "resnet20": (91.90, 89.23, 90.10, 90.89, 91.15, 91.53, 91.56),
    },
    "three_valued": {
        "vgg11": (92.08, 89.12, 89.59, 90.52, 90.71, 91.89, 91.70),
        "resnet20": (92.14, 89.37, 90.05, 91.02, 91.03, 91.71, 91.97),
    },
    "two_valued": {
        "vgg11": (91.66, 88.50, 89.12, 89.99, 90.00, 91.31, 91.31),
        "resnet20": (91.73, 89.22, 89.98, 90.64, 90.75, 91.37, 91.65),
    },
}
ALPHA_GRADIENTS = ("three_valued", "ae", "two_valued")
WEIGHT_BITS = (1, 2, 4)
METHODS = {"BC": 0.0, "BCGD": 1e-5}
COLUMNS = ("32W4A", *(f"{bits}W4A" for bits in WEIGHT_BITS))


def paper_accuracy(net, alpha_gradient, column, method):
    """The slides' accuracy in %."""
    row = PAPER[alpha_gradient][net]
    if column == "32W4A":
        return row[0]
    place = 2 * COLUMNS.index(column) - 1
    return row[place + list(METHODS).index(method)]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Args:
        cell: String, what it stands for, without the seed.
        flags: Dict, flags of cifar10.py.
        seed: Int.
        start: String, the cell that its weights come from, or `None`.
        start_seed: Int, the seed of that one. Defaults to `None`: its own.
    """

    cell: str
    flags: dict
    seed: int
    start: str | None = None
    start_seed: int | None = None

    @property
    def name(self):
        return f"{self.cell}_seed{self.seed}"

    @property
    def start_name(self):
        if self.start is None:
            return None
        seed = self.seed if self.start_seed is None else self.start_seed
        return f"{self.start}_seed{seed}"


def cell_name(net, column, method, alpha_gradient="three_valued", variant=""):
    """The name of a quantized cell: resnet20_1w4a_bcgd_ae_cosine, say."""
    parts = [net, column, method]
    if alpha_gradient != "three_valued":
        parts.append(alpha_gradient)
    return "_".join([*parts, *([variant] if variant else [])]).lower()


# What may help beyond the paper: the columns it is tried on, and flags.
VARIANTS = {
    "mse": (("1W4A", "4W4A"), {"alpha_start": "mse"}),
    "cosine": (("1W4A",), {"schedule": "cosine"}),
    "per_channel": (("1W4A",), {"per_channel": True}),
    "exact": (("4W4A",), {"projection": "exact"}),
    "warm": (("4W4A",), {"projection": "warm"}),
}
RECOMMENDED = "recommended"


def runs(plan, net):
    """All runs of a plan for one network, those first that others need.

    Args:
        plan: `plans.Plan`.
        net: String, a network of the slides' tables.

    Returns:
        List of `Run`s.
    """
    common = {"net": net, "train_images": plan.train_images}
    every_seed = (*plan.seeds, *plan.more_seeds)
    found = []
    # Of the other runs nobody looks at the epochs between.
    in_figure = [cell_name(net, "1W4A", method) for method in METHODS]

    def add_float(cell, seeds, epochs, **flags):
        flags |= {
            "stage": "float",
            "epochs": epochs,
            "learning_rate": plan.float_learning_rate,
            "validation_freq": plan.test_every,
        }
        found.extend(Run(cell, common | flags, seed) for seed in seeds)

    def add(column, method, seeds, start=f"{net}_float", variant="", **flags):
        gradient = flags.get("alpha_gradient", "three_valued")
        flags |= {
            "weight_bits": int(column.partition("W")[0]),
            "activation_bits": 4,
            "blending": METHODS[method],
            "epochs": plan.quantized_epochs,
        }
        cell = cell_name(net, column, method, gradient, variant)
        if cell not in in_figure:
            flags["validation_freq"] = plan.test_every
        found.extend(Run(cell, common | flags, seed, start) for seed in seeds)

    add_float(f"{net}_float", every_seed, plan.float_epochs)
    for method in METHODS:
        add("1W4A", method, plan.seeds)
    for bits in WEIGHT_BITS[1:]:
        for method in METHODS:
            add(f"{bits}W4A", method, plan.seeds)
    add("32W4A", "BCGD", plan.seeds)
    add_float(
        f"{net}_float_long",
        plan.seeds,
        plan.float_epochs + plan.quantized_epochs,
    )
    for method in METHODS:
        add("1W4A", method, plan.more_seeds)
    columns = COLUMNS if plan.all_gradients else ("1W4A",)
    for gradient in ALPHA_GRADIENTS[1:]:
        for column in columns:
            add(column, "BCGD", plan.seeds, alpha_gradient=gradient)
    for variant, (tried_on, flags) in VARIANTS.items():
        for column in tried_on:
            add(column, "BCGD", plan.seeds, variant=variant, **flags)

    start = f"{net}_float_{RECOMMENDED}"
    add_float(start, plan.seeds, plan.float_epochs, recipe=RECOMMENDED)
    add_float(
        f"{start}_long",
        plan.seeds,
        plan.float_epochs + plan.quantized_epochs,
        recipe=RECOMMENDED,
    )
    for bits in WEIGHT_BITS:
        column = f"{bits}W4A"
        flags = {"recipe": RECOMMENDED}
        add(column, "BCGD", plan.seeds, start, RECOMMENDED, **flags)

    for gradient in ALPHA_GRADIENTS[1:]:
        for column in columns:
            # Float weights are not blended.
            if column != "32W4A":
                add(column, "BC", plan.seeds, alpha_gradient=gradient)
    return found
