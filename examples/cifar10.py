"""Trains a float or a fully quantized network on CIFAR-10.

First the float network, then the quantized one from its weights:

    python examples/cifar10.py --stage=float --workdir=runs/float
    python examples/cifar10.py --weight_bits=4 --activation_bits=4 \\
        --init_from=runs/float/model.keras --workdir=runs/4w4a

Killed at any moment, the same command with --resume goes on and ends with the
very weights that it would have ended with. A run's folder holds its settings,
its curves for TensorBoard and, at the end, model.keras and result.json.

--recipe=paper is the paper's, --recipe=recommended ours: it also trains what an
integer file needs (8-bit branches, inputs on an 8-bit grid), see
examples/deploy_tflite.py. The flags below that are "set by the recipe" override
it.
"""

import os
import re

import cifar10_data
import keras
import start_from_float
import workdir as workdirs
from absl import app
from absl import flags

import keras_bcgd

RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
NETS = ["vgg11", *RESNETS, "mobilenet"]
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

FLAGS = flags.FLAGS


def _set_by_recipe(define, name, *args):
    paper, recommended = RECIPES[name]
    *args, text = args
    text += f" Set by the recipe: {paper} in the paper's, {recommended} in ours"
    define(name, None, *args, text)


flags.DEFINE_string("workdir", None, "The folder of the run.", required=True)
flags.DEFINE_bool("resume", False, "Go on with the run that was begun there.")
flags.DEFINE_string(
    "data_dir",
    None,
    "The folder of tensorflow-datasets, or an .npz file by cifar10_data.py.",
)
flags.DEFINE_bool(
    "smoke", False, "Random images instead of CIFAR-10: to try the program."
)
flags.DEFINE_enum("net", "resnet20", NETS, "The network.")
flags.DEFINE_enum(
    "stage",
    "quantized",
    list(LEARNING_RATES),
    "What to train; the quantized network begins with the float one's weights.",
)
flags.DEFINE_string("init_from", None, "The model.keras of the float network.")
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
    "shortcut", "A", ["A", "B"], "ResNets: A has no weights, B 1x1 convolutions"
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
    "alpha_learning_rate_multiplier", 0.01, "Alphas learn slower by this."
)
flags.DEFINE_float("momentum", 0.95, "Of SGD.")
flags.DEFINE_float("l2", 1e-4, "Coupled L2 regularization of float weights.")
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
    ["0.4", "0.7"],
    "Epochs, or shares of the training if below 1: .4 and .7 are the paper's "
    "80 and 140 of 200.",
)
flags.register_validator(
    "milestones",
    lambda given: (
        given and all(re.fullmatch(r"\d*\.?\d+", part) for part in given)
    ),
    "must be numbers, as in --milestones=80,140",
)
flags.DEFINE_integer("epochs", 200, "Epochs of this stage.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images in a step.", lower_bound=1)
flags.DEFINE_integer(
    "train_images", 50000, "Only the first so many.", lower_bound=1
)
flags.DEFINE_integer(
    "validation_freq",
    1,
    "Test after each so many epochs, and after the last.",
    lower_bound=1,
)
flags.DEFINE_bool("crop", True, "Augment by crops of the image padded by 4.")
_set_by_recipe(
    flags.DEFINE_enum,
    "normalization",
    cifar10_data.NORMALIZATIONS,
    "Of images: mean 0 and deviation 1 in each color, or (byte - 128) / 64.",
)
flags.DEFINE_integer(
    "seed", 0, "Of weights, order and augmentation.", lower_bound=0
)
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    "Steps in one call: more keep a GPU busy.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "deterministic",
    True,
    "Every run with the same flags ends the same (TensorFlow; JAX does so on a "
    "CPU, and on a GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true).",
)

# They say where, not what: a run may go on with others.
_NOT_SETTINGS = ("workdir", "resume", "data_dir")


def settings():
    """The flags of this program, with what recipe and stage fill in."""
    found = {
        flag.name: flag.value
        for flag in FLAGS.get_flags_for_module(__name__)
        if flag.name not in _NOT_SETTINGS
    }
    place = RECIPE_NAMES.index(FLAGS.recipe)
    for name, values in RECIPES.items():
        if found[name] is None:
            found[name] = values[place]
    if found["init_from"]:
        found["init_from"] = os.path.abspath(found["init_from"])
    if found["learning_rate"] is None:
        found["learning_rate"] = LEARNING_RATES[FLAGS.stage]
    if FLAGS.stage == "float":
        # A float network does not depend on them.
        for name in ("weight_bits", "activation_bits", "branch_bits"):
            found[name] = None if name == "branch_bits" else FLOAT_BITS
    found["backend"] = keras.backend.backend()
    return found


def make_model(config):
    """The network, float or quantized, not yet trained."""
    options = {
        name: config[name]
        for name in (
            "weight_bits",
            "activation_bits",
            "branch_bits",
            "first_last_float",
            "projection",
            "per_channel",
            "alpha_gradient",
            "stride_padding",
            "norm_momentum",
            "norm_epsilon",
        )
    }
    if config["alpha_start"] == "slides":
        options["alpha_initializer"] = "slides"
    if config["net"] in RESNETS:
        return keras_bcgd.models.resnet_cifar(
            RESNETS[config["net"]], shortcut=config["shortcut"], **options
        )
    if config["net"] == "vgg11":
        return keras_bcgd.models.vgg11(**options)
    return keras_bcgd.models.mobilenet_cifar(**options)


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


def compile_model(model, config, steps_per_epoch):
    sgd = keras.optimizers.SGD(
        make_schedule(config, steps_per_epoch), momentum=config["momentum"]
    )
    multiplier = config["alpha_learning_rate_multiplier"]
    optimizer = keras_bcgd.BlendedOptimizer(
        sgd,
        blending=config["blending"],
        alpha_learning_rate_multiplier=multiplier,
        l2=config["l2"],
    )
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=config["steps_per_execution"],
    )


def make_deterministic():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def start(config, images, steps_per_epoch):
    """The network before the first step; `images` calibrate its alphas."""
    try:
        model = make_model(config)
        if config["init_from"]:
            float_model = keras.models.load_model(
                config["init_from"], compile=False
            )
            start_from_float.start_from_float(
                model, float_model, images, config["alpha_start"]
            )
        compile_model(model, config, steps_per_epoch)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    return model


def train(workdir, config, data):
    """Trains from the start or from the last checkpoint."""
    (x_train, y_train), (x_test, y_test) = data
    x_train = x_train[: config["train_images"]]
    y_train = y_train[: config["train_images"]]
    batches = cifar10_data.Batches(
        x_train,
        y_train,
        config["batch_size"],
        config["seed"],
        crop=config["crop"],
        normalization=config["normalization"],
    )
    if not len(batches):
        raise app.UsageError(
            f"--batch_size={config['batch_size']} is more than the "
            f"{len(x_train)} training images"
        )
    if FLAGS.resume and not workdir.last_epoch:
        print(f"Nothing to resume in {workdir.path}: starts")
    if workdir.last_epoch:
        print(f"Resumed after epoch {workdir.last_epoch} in {workdir.path}")
        model = workdir.load_last()
    else:
        images = cifar10_data.normalize(x_train[:500], config["normalization"])
        model = start(config, images, len(batches))
    with workdir.summary_writer() as writer:
        model.fit(
            batches,
            epochs=config["epochs"],
            initial_epoch=workdir.last_epoch,
            validation_data=(
                cifar10_data.normalize(x_test, config["normalization"]),
                y_test,
            ),
            validation_batch_size=500,
            validation_freq=tested_epochs(config),
            shuffle=False,
            callbacks=[
                batches.callback(),
                keras_bcgd.QuantizationMonitor(writer),
                workdirs.EpochRecorder(workdir, writer),
            ],
            verbose=2,
        )
    return model


def tested_epochs(config):
    """Every so many epochs, and the last one in any case."""
    every, epochs = config["validation_freq"], config["epochs"]
    return [*range(every, epochs, every), epochs]


def summarize(model, workdir):
    """The content of result.json."""
    tested = {
        epoch: entry["val_accuracy"]
        for epoch, entry in enumerate(workdir.history, 1)
        if "val_accuracy" in entry
    }
    last = max(tested)
    best = max(tested, key=tested.get)
    return {
        "config": workdir.config,
        "trained_parameters": sum(
            w.size
            for w in map(keras.ops.convert_to_numpy, model.trainable_weights)
        ),
        "epochs": len(workdir.history),
        "test_accuracy_last": tested[last],
        "test_accuracy_best": tested[best],
        "best_epoch": best,
        "seconds": sum(entry["seconds"] for entry in workdir.history),
        "machine": workdirs.machine(),
    }


def main(_):
    if FLAGS.stage == "quantized" and FLAGS.init_from is None:
        raise app.UsageError(
            "--stage=quantized starts from a float network: train one with "
            "--stage=float and give --init_from=ITS_WORKDIR/model.keras"
        )
    if FLAGS.init_from and not os.path.exists(FLAGS.init_from):
        raise app.UsageError(f"--init_from: there is no file {FLAGS.init_from}")
    config = settings()
    try:
        workdir = workdirs.Workdir(FLAGS.workdir, config, FLAGS.resume)
    except workdirs.WorkdirError as error:
        raise app.UsageError(str(error)) from None
    result = workdir.result
    if result is None:
        if FLAGS.smoke:
            data = cifar10_data.random_images()
        else:
            data = cifar10_data.load(FLAGS.data_dir)
        keras.utils.set_random_seed(FLAGS.seed)
        if FLAGS.deterministic:
            make_deterministic()
        model = train(workdir, config, data)
        result = summarize(model, workdir)
        workdir.finish(model, result)
    print(
        f"{workdir.model_path}: test accuracy "
        f"{result['test_accuracy_last']:.2%} after the last epoch, which it "
        f"holds; the best was {result['test_accuracy_best']:.2%} after epoch "
        f"{result['best_epoch']} of {result['epochs']}"
    )


if __name__ == "__main__":
    app.run(main)
