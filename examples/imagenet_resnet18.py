"""Trains ResNet-18 on ImageNet, in float and then fully quantized, and deploys.

    python examples/imagenet_resnet18.py --workdir=runs/4w4a

needs ImageNet prepared by tensorflow-datasets, or its two official files; it
says which and where they belong. It uses all GPUs of the machine. On several
machines the same command runs on each, with TF_CONFIG or by srun; see
docs/imagenet.md. Stopped or killed at any moment, the same command goes on
from the last checkpoint.

--weight_bits=1, or --activation_bits=8, are the other networks of the slides,
--blending=0 is BinaryConnect. --init_from=runs/4w4a/float/model.keras starts
them from the float network that is there already. examples/imagenet_curves.py
draws the curves of two such runs.

--recipe=recommended trains the network that an integer file can hold exactly;
with --recipe=paper the residual branches, which the slides leave in float, are
rounded in the file only, and some of its answers are others.
"""

import os
import sys

# Before TensorFlow starts: its messages would tear the progress bar apart.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app  # noqa: E402
from absl import flags  # noqa: E402
from absl import logging  # noqa: E402

from imagenet import data as imagenet_data  # noqa: E402
from imagenet import deploy  # noqa: E402
from imagenet import errors  # noqa: E402
from imagenet.stage import Stage  # noqa: E402
from training import checkpoints as checkpoint_files  # noqa: E402
from training import recipes  # noqa: E402
from training import resumable  # noqa: E402
from training import strategies  # noqa: E402
from training import workdir as workdirs  # noqa: E402

FLAGS = flags.FLAGS
WARM_UP_EPOCHS = 5  # where the batch grows with the replicas
STOPPED = 143  # the exit status that the shell gives for SIGTERM

flags.adopt_module_key_flags(recipes)
FLAGS.set_default("milestones", ["0.625", "0.875"])
flags.DEFINE_string("workdir", None, "The folder of the run.", required=True)
flags.DEFINE_bool(
    "resume", True, "Go on with the run in that folder, if there is one."
)
flags.DEFINE_string("data_dir", None, "The folder of tensorflow-datasets.")
flags.DEFINE_string(
    "manual_dir",
    None,
    "The folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, if the "
    "data is to be prepared. By default downloads/manual in --data_dir.",
)
flags.DEFINE_string(
    "init_from",
    None,
    "The model.keras of a float network to start from. Without it one is "
    "trained first, in the folder float of --workdir.",
)
flags.DEFINE_integer("epochs", 80, "Of the quantized stage.", lower_bound=1)
flags.DEFINE_integer(
    "float_epochs", None, "Of the float stage; --epochs if not given."
)
flags.DEFINE_float(
    "float_learning_rate",
    recipes.LEARNING_RATES["float"],
    "The first one of the float stage, as --learning_rate of the other.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "batch_size", 256, "Images in a step, on all replicas.", lower_bound=1
)
flags.DEFINE_integer("image_size", 224, "Pixels, of the crops.", lower_bound=32)
flags.DEFINE_integer(
    "calibration_images",
    64,
    "Training images from which alphas and ranges are taken.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "strategy",
    "auto",
    strategies.NAMES,
    "One device (none), all GPUs of the machine (mirrored), or several "
    "machines (multiworker).",
)
flags.DEFINE_integer(
    "cpu_devices", 0, "Split the CPU into so many replicas, to rehearse."
)
flags.DEFINE_bool(
    "scale_with_replicas",
    False,
    "--batch_size and the learning rates are those of one replica: both are "
    "multiplied by their number.",
)
flags.DEFINE_float(
    "warmup_epochs",
    None,
    "The learning rate rises from 0 in these. By default 0, and "
    f"{WARM_UP_EPOCHS} with --scale_with_replicas.",
    lower_bound=0,
)
flags.DEFINE_bool(
    "sync_batch_norm",
    False,
    "Batch normalization over the whole batch, not over each replica's part.",
)
flags.DEFINE_enum(
    "mixed_precision", "none", ["none", "float16", "bfloat16"], "On GPUs."
)
flags.DEFINE_enum(
    "corrupt_images",
    "report",
    imagenet_data.CORRUPT_POLICIES,
    "An image that cannot be decoded ends the program with its name, or is "
    "named and left out. The latter with --deterministic decodes on one core.",
)
flags.DEFINE_integer(
    "shuffle_images", 16384, "The order is mixed within so many, in memory."
)
flags.DEFINE_float(
    "checkpoint_minutes",
    10,
    "Between two checkpoints within an epoch; there is one after each, too.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "keep_checkpoints",
    3,
    "The last so many are kept, and the best.",
    lower_bound=1,
)
flags.DEFINE_bool("export", True, "Write and verify the .tflite at the end.")
flags.DEFINE_enum(
    "weight_format", "int8", ["int8", "auto"], "Of the file; auto: int4 if so."
)
flags.DEFINE_integer(
    "verify_images", 2000, "Validation images that file and model are held to."
)

# What does not change the network that comes out.
_NOT_SETTINGS = (
    "workdir",
    "resume",
    "data_dir",
    "manual_dir",
    "init_from",
    "float_epochs",
    "float_learning_rate",
    "strategy",
    "cpu_devices",
    "checkpoint_minutes",
    "corrupt_images",
    "keep_checkpoints",
    "export",
    "weight_format",
    "verify_images",
)


def settings(stage, replicas):
    """The flags of a stage, with what recipe and replicas fill in."""
    names = [
        flag.name
        for flag in FLAGS.get_key_flags_for_module(__name__)
        if flag.name not in _NOT_SETTINGS
    ]
    found = recipes.settings(names, stage)
    found["stage"] = stage
    if stage == "float":
        found["learning_rate"] = FLAGS.float_learning_rate
        found["epochs"] = FLAGS.float_epochs or FLAGS.epochs
    if found["warmup_epochs"] is None:
        scales = found["scale_with_replicas"]
        found["warmup_epochs"] = WARM_UP_EPOCHS if scales else 0
    if found["scale_with_replicas"]:
        found["batch_size"] *= replicas
        found["learning_rate"] *= replicas
    if found["batch_size"] % replicas:
        raise app.UsageError(
            f"--batch_size={found['batch_size']} cannot be divided among "
            f"{replicas} replicas"
        )
    return found


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.init_from and not os.path.exists(FLAGS.init_from):
        raise app.UsageError(f"--init_from: there is no file {FLAGS.init_from}")
    if keras.backend.backend() != "tensorflow":
        raise app.UsageError("This program needs KERAS_BACKEND=tensorflow")
    try:
        strategy = strategies.make(FLAGS.strategy, FLAGS.cpu_devices)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    try:
        train_and_deploy(strategy)
    except resumable.Stopped as stop:
        print(f"{stop}. The same command goes on from there.", flush=True)
        sys.exit(STOPPED)
    except (
        imagenet_data.DataError,
        workdirs.WorkdirError,
        checkpoint_files.CheckpointError,
        resumable.Diverged,
        tf.errors.OpError,
        OSError,
    ) as error:
        fail(error, strategy)


def train_and_deploy(strategy):
    builder = imagenet_data.prepared_builder(
        FLAGS.data_dir,
        FLAGS.manual_dir,
        prepare=strategies.workers(strategy) == 1,
    )
    if FLAGS.deterministic:
        recipes.make_deterministic()
    if FLAGS.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{FLAGS.mixed_precision}")
    stages = make_stages(builder, strategy)
    for stage in stages:
        stage.train(
            FLAGS.resume, FLAGS.checkpoint_minutes, FLAGS.keep_checkpoints
        )
    if FLAGS.export and strategies.is_chief(strategy):
        deploy.deploy(
            stages[-1],
            os.path.join(FLAGS.workdir, "deployed"),
            FLAGS.weight_format,
            FLAGS.verify_images,
        )


def make_stages(builder, strategy):
    """The float and the quantized stage, or only this one; not yet trained."""
    stages = []
    start = FLAGS.init_from and os.path.abspath(FLAGS.init_from)
    for name in ("float", "quantized"):
        if name == "float" and start:
            continue
        config = settings(name, strategy.num_replicas_in_sync)
        stage = Stage(
            os.path.join(FLAGS.workdir, name),
            config | {"init_from": FLAGS.init_from},
            builder,
            strategy,
            start,
            FLAGS.corrupt_images,
        )
        try:
            stage.check()
        except ValueError as error:
            raise app.UsageError(f"The {name} stage: {error}") from None
        start = stage.model_path
        stages.append(stage)
    return stages


def fail(error, strategy):
    """Ends the program with a message that says what to do."""
    message = str(error)
    if isinstance(error, tf.errors.OpError):
        message = errors.explain(error, strategies.workers(strategy))
    print(f"\n{message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not `sys.exit`: at the end of the process TensorFlow would wait for
    # machines that are gone.
    os._exit(1)


if __name__ == "__main__":
    app.run(main)
