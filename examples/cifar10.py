"""Trains a float or a fully quantized network on CIFAR-10.

First the float network, then the quantized one from its weights:

    python examples/cifar10.py --stage=float --workdir=runs/float
    python examples/cifar10.py --weight_bits=4 --activation_bits=4 \\
        --init_from=runs/float/model.keras --workdir=runs/4w4a

Killed at any moment, the same command with --resume goes on and ends with the
very weights that it would have ended with. A run's folder holds its settings,
its curves for TensorBoard and, at the end, model.keras and result.json.

--recipe=paper is the paper's, --recipe=recommended ours: it also trains what an
integer file needs, see examples/deploy_tflite.py. The flags that --help
calls "set by the recipe" override it.
"""

import os

import keras
from absl import app
from absl import flags

import keras_bcgd
from training import cifar10_data
from training import device_batches
from training import distillation
from training import recipes
from training import start_from_float
from training import workdir as workdirs

RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
NETS = ["vgg11", *RESNETS, "mobilenet"]
# Their averages have settled by then.
BATCH_NORM_BATCHES = 100
FLAGS = flags.FLAGS

flags.adopt_module_key_flags(recipes)
FLAGS.set_default("milestones", ["0.4", "0.7"])
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
    list(recipes.LEARNING_RATES),
    "What to train; the quantized network begins with the float one's weights.",
)
flags.DEFINE_string(
    "init_from",
    None,
    "The model.keras of the float network, or of one of more bits.",
)
flags.DEFINE_enum(
    "shortcut", "A", ["A", "B"], "ResNets: A has no weights, B 1x1 convolutions"
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
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    "Steps in one call: more keep a GPU busy.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "on_device",
    False,
    "Keep the images on the device and augment them there, in the compiled "
    "step: for a GPU, with some --steps_per_execution that divide the steps of "
    "an epoch.",
)
flags.DEFINE_float(
    "distillation_weight",
    0,
    "Share of the loss that compares the logits with those of --teacher "
    "(keras.distillation).",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_float("temperature", 4, "Of that comparison.", lower_bound=0.1)
flags.DEFINE_string(
    "teacher", None, "Its model.keras; that of --init_from by default."
)
flags.DEFINE_bool(
    "reestimate_batch_norm",
    False,
    "At the end, measure batch normalization's averages again, with the last "
    "weights. result.json has the test accuracy before that as well.",
)
flags.DEFINE_float(
    "checkpoint_seconds",
    0,
    "Save an epoch if so long has passed since the last one saved; what was "
    "not saved is done again after a kill. 0: every epoch.",
    lower_bound=0,
)

# They say where and how often, not what: a run may go on with others.
_NOT_SETTINGS = ("workdir", "resume", "data_dir", "checkpoint_seconds")


def setting_names():
    return [
        flag.name
        for flag in FLAGS.get_key_flags_for_module(__name__)
        if flag.name not in _NOT_SETTINGS
    ]


def settings():
    """The flags of this program, with what recipe and stage fill in."""
    found = recipes.settings(setting_names(), FLAGS.stage)
    for name in ("init_from", "teacher"):
        if found[name]:
            found[name] = os.path.abspath(found[name])
    return found


def defaults():
    """The flags where nobody gives them."""
    return {name: FLAGS[name].default for name in setting_names()}


def make_model(config):
    """The network, float or quantized, not yet trained."""
    options = recipes.network_options(config)
    if config["net"] in RESNETS:
        return keras_bcgd.models.resnet_cifar(
            RESNETS[config["net"]], shortcut=config["shortcut"], **options
        )
    # These have no branches.
    classifier_bits = options.pop("branch_bits")
    if not options["first_last_float"]:
        options["classifier_bits"] = classifier_bits
    if config["net"] == "vgg11":
        return keras_bcgd.models.vgg11(**options)
    return keras_bcgd.models.mobilenet_cifar(**options)


def compile_model(model, config, steps_per_epoch):
    schedule = recipes.make_schedule(config, steps_per_epoch)
    steps = config["epochs"] * steps_per_epoch
    model.compile(
        recipes.make_optimizer(config, schedule, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On the device `fit_on_device` makes the loop.
        steps_per_execution=(
            1 if config["on_device"] else config["steps_per_execution"]
        ),
    )


def start(config, images, steps_per_epoch):
    """What is trained, before the first step; `images` calibrate alphas."""
    try:
        model = make_model(config)
        if config["init_from"]:
            source = keras.models.load_model(config["init_from"])
            start_from_float.start_from_float(
                model, source, images, config["alpha_start"]
            )
        model = distillation.make_trained(model, config)
        compile_model(model, config, steps_per_epoch)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    return model


def load_last(workdir, config, steps_per_epoch):
    """The model of the last checkpoint, compiled, ready to go on."""
    if not config["distillation_weight"]:
        return workdir.load_last()
    return workdir.load_last(
        lambda path: distillation.load(
            path, lambda model: compile_model(model, config, steps_per_epoch)
        )
    )


def make_batches(config, images, labels):
    """The batches, or on the device what they are made of."""
    common = config["batch_size"], config["seed"], config["crop"]
    if config["on_device"]:
        return cifar10_data.Draws(len(images), *common)
    return cifar10_data.Batches(
        images, labels, *common, config["normalization"]
    )


def fit(model, config, batches, arrays, **arguments):
    """Trains with what `make_batches` made of the arrays."""
    if not config["on_device"]:
        return model.fit(batches, shuffle=False, **arguments)
    return keras_bcgd.fit_on_device(
        model,
        arrays,
        batches,
        device_batches.batch_maker(config["normalization"]),
        config["steps_per_execution"],
        **arguments,
    )


def train(workdir, config, data):
    """Trains from the start or from the last checkpoint."""
    (x_train, y_train), (x_test, y_test) = data
    x_train = x_train[: config["train_images"]]
    y_train = y_train[: config["train_images"]]
    batches = make_batches(config, x_train, y_train)
    if not len(batches):
        raise app.UsageError(
            f"--batch_size={config['batch_size']} is more than the "
            f"{len(x_train)} training images"
        )
    if FLAGS.resume and not workdir.last_epoch:
        print(f"Nothing to resume in {workdir.path}: starts")
    if workdir.last_epoch:
        print(f"Resumed after epoch {workdir.last_epoch} in {workdir.path}")
        model = load_last(workdir, config, len(batches))
    else:
        images = cifar10_data.normalize(x_train[:500], config["normalization"])
        model = start(config, images, len(batches))
    with workdir.summary_writer() as writer:
        fit(
            model,
            config,
            batches,
            (x_train, y_train),
            epochs=config["epochs"],
            initial_epoch=workdir.last_epoch,
            validation_data=(
                cifar10_data.normalize(x_test, config["normalization"]),
                y_test,
            ),
            validation_batch_size=500,
            validation_freq=tested_epochs(config),
            callbacks=[
                batches.callback(),
                keras_bcgd.QuantizationMonitor(writer),
                workdirs.EpochRecorder(
                    workdir, writer, FLAGS.checkpoint_seconds
                ),
            ],
            verbose=2,
        )
    return distillation.student_of(model)


def measure_batch_norm(model, config, data):
    """Batch normalization's averages again, on images as in training.

    Returns:
        The test accuracy after it.
    """
    (x_train, y_train), (x_test, y_test) = data
    count = config["train_images"]
    batches = make_batches(
        config | {"on_device": False}, x_train[:count], y_train[:count]
    )
    keras_bcgd.reestimate_batch_norm(
        model, batches, batches=min(BATCH_NORM_BATCHES, len(batches)), verbose=0
    )
    x_test = cifar10_data.normalize(x_test, config["normalization"])
    return model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]


def tested_epochs(config):
    """Every so many epochs, and the last one in any case."""
    every, epochs = config["validation_freq"], config["epochs"]
    return [*range(every, epochs, every), epochs]


def summarize(model, workdir):
    """The content of result.json."""
    return {
        "config": workdir.config,
        "trained_parameters": sum(
            w.size
            for w in map(keras.ops.convert_to_numpy, model.trainable_weights)
        ),
        **workdirs.accuracies(workdir.history),
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
        distillation.check(config)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    try:
        workdir = workdirs.Workdir(
            FLAGS.workdir, config, FLAGS.resume, defaults()
        )
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
            recipes.make_deterministic()
        model = train(workdir, config, data)
        result = summarize(model, workdir)
        if config["reestimate_batch_norm"]:
            result["test_accuracy_as_trained"] = result["test_accuracy_last"]
            accuracy = measure_batch_norm(model, config, data)
            result["test_accuracy_last"] = accuracy
        workdir.finish(model, result)
    print(
        f"{workdir.model_path}: test accuracy "
        f"{result['test_accuracy_last']:.2%} after the last epoch, which it "
        f"holds; the best was {result['test_accuracy_best']:.2%} after epoch "
        f"{result['best_epoch']} of {result['epochs']}"
    )


if __name__ == "__main__":
    app.run(main)
