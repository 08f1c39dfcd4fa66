"""Flags and choices that the training programs have in common.

A recipe sets several flags: --recipe=paper is the paper's, --recipe=recommended
ours. It also trains what an integer file needs: 8-bit branches, and inputs on
an 8-bit grid. The flags below that are "set by the recipe" override it.
"""

import re

import keras
from absl import flags

import keras_bcgd
from training import normalization
from training import start_from_float

FLOAT_BITS = 32

# What a recipe sets, and its value in the paper (PyTorch's default where the
# paper is silent) and in ours.
RECIPES = {
    "branch_bits": (None, 8),
    "alpha_start": ("slides", "mse"),
    "schedule": ("milestones", "cosine"),
    "normalization": ("paper", "grid"),
}
RECIPE_NAMES = ("paper", "recommended")
# The float stage begins with the first, the quantized one with the second.
LEARNING_RATES = {"float": 0.1, "quantized": 0.01}
# The arguments of a network in `keras_bcgd.models` that are flags.
NETWORK_OPTIONS = (
    "weight_bits",
    "activation_bits",
    "branch_bits",
    "first_last_float",
    "projection",
    "per_channel",
    "alpha_gradient",
    "alpha_gradient_scale",
    "stride_padding",
    "norm_momentum",
    "norm_epsilon",
)


def _set_by_recipe(define, name, *args):
    paper, recommended = RECIPES[name]
    *args, text = args
    text += f" Set by the recipe: {paper} in the paper's, {recommended} in ours"
    define(name, None, *args, text)


flags.DEFINE_enum("recipe", "paper", RECIPE_NAMES, "Sets several flags.")
flags.DEFINE_integer("weight_bits", 4, "Of the weights, 1 to 8 or 32: float.")
flags.DEFINE_integer("activation_bits", 4, "Of the activations, 1 to 8 or 32.")
_set_by_recipe(
    flags.DEFINE_integer,
    "branch_bits",
    "Bits of residual branches and of the classifier's weights, which the "
    "slides leave in float: 8 for integer files.",
)
flags.DEFINE_bool(
    "first_last_float", False, "First convolution and classifier in float."
)
flags.DEFINE_enum(
    "alpha_gradient",
    "three_valued",
    ["three_valued", "two_valued", "ae"],
    "The coarse derivative by alpha.",
)
flags.DEFINE_enum(
    "alpha_gradient_scale",
    None,
    ["lsq"],
    "A factor of that derivative: lsq for LSQ's; then "
    "--alpha_learning_rate_multiplier=1.",
)
_set_by_recipe(
    flags.DEFINE_enum,
    "alpha_start",
    start_from_float.ALPHA_STARTS,
    "The first alphas: 1/(2^b-1) (slides), the best for a Gaussian, or from a "
    "batch of images by the least error or by the maximum.",
)
flags.DEFINE_enum(
    "projection",
    "lloyd",
    ["lloyd", "warm", "exact"],
    "How proj_Q is solved from 3 bits on.",
)
flags.DEFINE_bool(
    "per_channel", False, "A scale for each output channel, not for the layer."
)
flags.DEFINE_enum(
    "stride_padding",
    "symmetric",
    ["symmetric", "same"],
    "Around convolutions of stride 2: even, or Keras' one.",
)
flags.DEFINE_float(
    "norm_momentum",
    0.9,
    "Of batch normalization's averages.",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_float(
    "norm_epsilon", 1e-5, "Of batch normalization.", lower_bound=0
)

flags.DEFINE_float("blending", 1e-5, "rho; 0 is BinaryConnect.")
flags.DEFINE_float(
    "blending_end",
    None,
    "rho at the last step, which it rises to linearly; none: it is constant.",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_float(
    "alpha_learning_rate_multiplier", 0.01, "Alphas learn slower by this."
)
flags.DEFINE_float("momentum", 0.95, "Of SGD.")
flags.DEFINE_float("l2", 1e-4, "Coupled L2 regularization of float weights.")
flags.DEFINE_float("alpha_l2", 0.0, "The same of alphas.", lower_bound=0)
flags.DEFINE_float(
    "learning_rate",
    None,
    "The first one. By the stage: "
    + ", ".join(f"{rate} {stage}" for stage, rate in LEARNING_RATES.items()),
    lower_bound=0,
)
_set_by_recipe(
    flags.DEFINE_enum,
    "schedule",
    ["milestones", "cosine"],
    "The learning rate falls to a tenth at each milestone, or by a cosine to 0 "
    "after a warm-up of a tenth of the steps.",
)
flags.DEFINE_list(
    "milestones",
    None,
    "Epochs, or shares of the training if below 1; the paper's by default.",
)
flags.register_validator(
    "milestones",
    lambda given: (
        given is None
        or (given and all(re.fullmatch(r"\d*\.?\d+", part) for part in given))
    ),
    "must be numbers, as in --milestones=80,140",
)
_set_by_recipe(
    flags.DEFINE_enum,
    "normalization",
    normalization.NORMALIZATIONS,
    "Of images: mean 0 and deviation 1 in each color, or (byte - 128) / 64.",
)
flags.DEFINE_integer(
    "seed", 0, "Of weights, order and augmentation.", lower_bound=0
)
flags.DEFINE_bool(
    "deterministic",
    True,
    "Every run with the same flags ends the same (TensorFlow; JAX does so on a "
    "CPU, and on a GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true).",
)


def settings(names, stage):
    """The flags of the given names, with what recipe and stage fill in.

    Args:
        names: List of strings, names of flags.
        stage: String, `"float"` or `"quantized"`. A float network does not
            depend on the bits.
    """
    found = {name: flags.FLAGS[name].value for name in names}
    place = RECIPE_NAMES.index(found["recipe"])
    for name, values in RECIPES.items():
        if found[name] is None:
            found[name] = values[place]
    if found["learning_rate"] is None:
        found["learning_rate"] = LEARNING_RATES[stage]
    if stage == "float":
        found["weight_bits"] = found["activation_bits"] = FLOAT_BITS
        found["branch_bits"] = None
    found["backend"] = keras.backend.backend()
    return found


def network_options(config):
    """The arguments of a network in `keras_bcgd.models`."""
    options = {name: config[name] for name in NETWORK_OPTIONS}
    if config["alpha_start"] == "slides":
        options["alpha_initializer"] = "slides"
    return options


def make_schedule(config, steps_per_epoch):
    """The learning rate by steps."""
    rate, epochs = config["learning_rate"], config["epochs"]
    steps = epochs * steps_per_epoch
    if config["schedule"] == "cosine":
        warm_up = steps // 10
        return keras.optimizers.schedules.CosineDecay(
            rate / 10, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
    boundaries = []
    for milestone in map(float, config["milestones"]):
        share = milestone if milestone < 1 else milestone / epochs
        # Keras changes the rate after the step of that number.
        boundaries.append(round(share * steps) - 1)
    if sorted({*boundaries}) != boundaries or boundaries[-1] >= steps - 1:
        raise ValueError(
            "--milestones must rise and lie within the training, of "
            f"{epochs} epochs. Received: {','.join(config['milestones'])}"
        )
    rates = [rate * 0.1**i for i in range(len(boundaries) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def make_optimizer(config, schedule, steps):
    """Blended coarse gradient descent around SGD, for so many steps."""
    blending = config["blending"]
    if config["blending_end"] is not None:
        blending = keras.optimizers.schedules.PolynomialDecay(
            blending, steps, config["blending_end"]
        )
    return keras_bcgd.BlendedOptimizer(
        keras.optimizers.SGD(schedule, momentum=config["momentum"]),
        blending=blending,
        alpha_learning_rate_multiplier=config["alpha_learning_rate_multiplier"],
        l2=config["l2"],
        alpha_l2=config["alpha_l2"],
    )


def make_deterministic():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
