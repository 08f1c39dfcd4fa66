"""Mixed bits against uniform bits of equal size, on CIFAR-10.

Measures for a trained float ResNet-20 what quantizing each layer alone costs,
on training images; chooses bits for the size of the network at uniform bits;
and compares the two before training and after some epochs of it:

    python examples/cifar10.py --stage=float --recipe=recommended \\
        --epochs=14 --train_images=5000 --learning_rate=0.02 \\
        --workdir=runs/float
    python examples/mixed_precision.py --float_model=runs/float/model.keras

"ends" is the usual rule: uniform bits, but 8 for the first and the last layer.
It is larger than the other two.
"""

import json
import pathlib

import keras
from absl import app
from absl import flags

import keras_bcgd
from training import cifar10_data

FLAGS = flags.FLAGS
flags.DEFINE_string("float_model", None, "model.keras of a float ResNet-20.")
flags.DEFINE_string(
    "data_dir",
    None,
    "The folder of tensorflow-datasets, or an .npz file by cifar10_data.py.",
)
flags.DEFINE_bool("smoke", False, "Random images and a smaller network.")
flags.DEFINE_list("uniform_bits", ["2", "4"], "Their sizes are the budgets.")
flags.DEFINE_list("bits", ["1", "2", "3", "4", "6", "8"], "To choose from.")
flags.DEFINE_integer("activation_bits", 4, "Of all activations, 1 to 8.")
flags.DEFINE_integer("measured_images", 1000, "To measure the costs on.")
flags.DEFINE_integer("train_images", 5000, "Only the first so many.")
flags.DEFINE_integer("epochs", 3, "Of quantized training.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.01, "The first; a cosine from there.")
flags.DEFINE_integer("batch_size", 128, "Images in a step.")
flags.DEFINE_integer("seed", 0, "Of order and augmentation.")
flags.DEFINE_string("out", None, "A JSON file for the results.")

ENDS = ("conv1", "classifier")
NORMALIZATION = "grid"


def quantized_network(float_model, overrides, images):
    """The float network's quantized twin, its alphas from some images."""
    model = keras_bcgd.quantize_model(
        float_model,
        activation_bits=FLAGS.activation_bits,
        first_last=None,
        overrides=overrides,
    )
    keras_bcgd.calibrate(model, images, verbose=0)
    return model


def compile_model(model, steps):
    schedule = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, steps
    )
    sgd = keras.optimizers.SGD(schedule, momentum=0.95)
    model.compile(
        keras_bcgd.BlendedOptimizer(sgd, blending=1e-5, l2=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def accuracies(model, data, test):
    """Test accuracies in %, before training and after each epoch."""
    keras.utils.set_random_seed(FLAGS.seed)
    batches = cifar10_data.Batches(
        *data, FLAGS.batch_size, FLAGS.seed, normalization=NORMALIZATION
    )
    compile_model(model, FLAGS.epochs * len(batches))
    before = model.evaluate(*test, 500, verbose=0, return_dict=True)
    history = model.fit(
        batches,
        epochs=FLAGS.epochs,
        validation_data=test,
        validation_batch_size=500,
        shuffle=False,
        callbacks=[batches.callback()],
        verbose=0,
    ).history
    return [100 * a for a in (before["accuracy"], *history["val_accuracy"])]


def plans(table, budget):
    """Overrides of `quantize_model`, for the size at `budget` bits."""
    names = {row["layer"] for row in table.rows}
    uniform = {name: {"weight_bits": budget} for name in names}
    return {
        "uniform": uniform,
        "mixed": table.choose(table.packed_bytes(budget)),
        "ends": uniform | {name: {"weight_bits": 8} for name in ENDS},
    }


def load():
    """Bytes and labels to train on, normalized test images and labels."""
    if FLAGS.smoke:
        data, test = cifar10_data.random_images()
    else:
        data, test = cifar10_data.load(FLAGS.data_dir)
    images, labels = (part[: FLAGS.train_images] for part in data)
    test_images = cifar10_data.normalize(test[0], NORMALIZATION)
    return (images, labels), (test_images, test[1])


def load_float_model():
    if FLAGS.smoke:
        return keras_bcgd.models.resnet_cifar(
            8, weight_bits=32, activation_bits=32
        )
    return keras.models.load_model(FLAGS.float_model, compile=False)


def main(_):
    if not FLAGS.smoke and not FLAGS.float_model:
        raise app.UsageError("give --float_model, see --help")
    data, test = load()
    float_model = load_float_model()
    compile_model(float_model, 1)
    count = FLAGS.measured_images
    images = cifar10_data.normalize(data[0][:count], NORMALIZATION)
    table = keras_bcgd.sensitivity(
        float_model,
        (images, data[1][:count]),
        bits=[int(b) for b in FLAGS.bits],
        verbose=2,
    )
    print(table)
    accuracy = float_model.evaluate(*test, 500, verbose=0, return_dict=True)
    print(f"float: {accuracy['accuracy']:.2%} of the test images")
    rows = []
    for budget in map(int, FLAGS.uniform_bits):
        for plan, overrides in plans(table, budget).items():
            model = quantized_network(float_model, overrides, images[:500])
            size = table.packed_bytes(overrides)
            found = accuracies(model, data, test)
            rows.append({"budget": budget, "plan": plan, "bytes": size})
            rows[-1] |= {"accuracies": found, "overrides": overrides}
            print(
                f"{budget} bits, {plan:7}  {size:7,} bytes  "
                + "  ".join(f"{a:5.2f}" for a in found),
                flush=True,
            )
    if FLAGS.out:
        text = json.dumps({"seed": FLAGS.seed, "rows": rows}, indent=1)
        pathlib.Path(FLAGS.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
