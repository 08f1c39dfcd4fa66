"""Trains a float or a fully quantized network on CIFAR-10.

First the float network, then the quantized one from its weights:

    python examples/cifar10.py --net=resnet20 --stage=float \\
        --epochs=200 --workdir=runs/resnet20_float
    python examples/cifar10.py --net=resnet20 --stage=quantized \\
        --weight_bits=4 --activation_bits=4 --branch_bits=8 \\
        --init_from=runs/resnet20_float/model.keras \\
        --epochs=200 --learning_rate=0.01 --workdir=runs/resnet20_4w4a

The inputs are on an 8-bit grid, (pixel - 128) / 64, so that the images
themselves are the input of the integer file: see examples/deploy_tflite.py.
"""

import json
import os
import sys
import time

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bcgd

NETS = {
    "resnet20": keras_bcgd.models.resnet_cifar,
    "vgg11": keras_bcgd.models.vgg11,
    "mobilenet": keras_bcgd.models.mobilenet_cifar,
}
FLOAT_BITS = 32

FLAGS = flags.FLAGS
flags.DEFINE_enum("net", "resnet20", list(NETS), "The network.")
flags.DEFINE_enum(
    "stage",
    "quantized",
    ["float", "quantized"],
    "What to train; the quantized network begins with the float one's weights.",
)
flags.DEFINE_string("init_from", None, "The .keras file of the float network.")
flags.DEFINE_integer("weight_bits", 4, "Bits of the weights, 1 to 8.")
flags.DEFINE_integer("activation_bits", 4, "Bits of the activations, 1 to 8.")
flags.DEFINE_integer(
    "branch_bits",
    None,
    "Bits of residual branches and classifier weights: 8 for deployment. "
    "Without it they stay float, as in the slides.",
)
flags.DEFINE_enum(
    "alpha_gradient",
    "three_valued",
    ["three_valued", "two_valued", "ae"],
    "The coarse derivative by alpha.",
)
flags.DEFINE_enum(
    "projection", "lloyd", ["lloyd", "warm", "exact"], "How proj_Q is solved."
)
flags.DEFINE_float("blending", 1e-5, "rho; 0 is BinaryConnect.")
flags.DEFINE_integer("epochs", 200, "Epochs of this stage.")
flags.DEFINE_list(
    "milestones",
    ["0.4", "0.7"],
    "The learning rate falls to a tenth at these shares of the training.",
)
flags.DEFINE_bool("cosine", False, "Anneal by a cosine to 0 instead.")
flags.DEFINE_float("learning_rate", 0.1, "Of SGD with momentum.")
flags.DEFINE_float("momentum", 0.95, "Of SGD.")
flags.DEFINE_float("l2", 1e-4, "Coupled L2 regularization of float weights.")
flags.DEFINE_integer("batch_size", 128, "Images in a step.")
flags.DEFINE_integer("train_images", 50000, "Use only the first so many.")
flags.DEFINE_bool("crop", True, "Augment by crops of the image padded by 4.")
flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps data.")
flags.DEFINE_bool(
    "smoke", False, "Random images instead of CIFAR-10: to try the program."
)
flags.DEFINE_integer("seed", 0, "Of weights, order and augmentation.")
flags.DEFINE_string("workdir", None, "Where the model goes.", required=True)


def load_cifar10(data_dir):
    """`(x_train, y_train), (x_test, y_test)`, images as bytes."""
    if FLAGS.smoke:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (256, 32, 32, 3)).astype("uint8")
        return [(images, np.arange(256) % 10)] * 2
    import tensorflow_datasets as tfds

    parts = tfds.load(
        "cifar10",
        data_dir=data_dir,
        split=["train", "test"],
        batch_size=-1,
        as_supervised=True,
    )
    return [(images.numpy(), labels.numpy()) for images, labels in parts]


def normalize(images):
    """Bytes to about -2..2, still on a grid of 256 values."""
    return (images.astype("float32") - 128) / 64


class Batches(keras.utils.PyDataset):
    """Shuffled batches of flipped and cropped images."""

    def __init__(self, images, labels, batch_size, crop, seed):
        super().__init__()
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.crop = crop
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.images) // self.batch_size

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.images))

    def __getitem__(self, index):
        start = index * self.batch_size
        chosen = self.order[start : start + self.batch_size]
        images = self.images[chosen]
        flip = self.rng.random(len(images)) < 0.5
        images[flip] = images[flip, :, ::-1]
        if self.crop:
            images = random_crops(images, self.rng)
        return normalize(images), self.labels[chosen]


def random_crops(images, rng):
    """Crops of the images padded by 4 zeros (mid-grey) on each side."""
    count, height, width, _ = images.shape
    amounts = [(0, 0), (4, 4), (4, 4), (0, 0)]
    padded = np.pad(images, amounts, constant_values=128)
    rows = rng.integers(0, 9, (count, 1, 1)) + np.arange(height)[:, None]
    columns = rng.integers(0, 9, (count, 1, 1)) + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows, columns]


def make_model():
    build = NETS[FLAGS.net]
    if FLAGS.stage == "float":
        return build(weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS)
    return build(
        weight_bits=FLAGS.weight_bits,
        activation_bits=FLAGS.activation_bits,
        branch_bits=FLAGS.branch_bits,
        projection=FLAGS.projection,
        alpha_gradient=FLAGS.alpha_gradient,
    )


def take_over(model, float_model, images):
    """Gives a network its float twin's weights, and alphas that fit a batch."""
    for source in float_model.layers:
        for weight in source.weights:
            target = getattr(model.get_layer(source.name), weight.name)
            target.assign(weight)
    relus = [
        layer
        for layer in model.layers
        if isinstance(layer, keras_bcgd.QuantReLU)
    ]
    inputs = [float_model.get_layer(relu.name).input for relu in relus]
    values = keras.Model(float_model.inputs, inputs)(images, training=False)
    for relu, value in zip(relus, values, strict=True):
        relu.alpha.assign(best_alpha(np.ravel(value), relu.bits))


def best_alpha(x, bits):
    """The alpha whose staircase is nearest to the ReLU of a sample."""
    x = x[x > 0]
    levels = 2**bits - 1
    candidates = np.max(x) / levels * np.linspace(0.05, 1, 96)
    errors = [
        np.mean((np.minimum(np.ceil(x / a), levels) * a - x) ** 2)
        for a in candidates
    ]
    return candidates[np.argmin(errors)]


def make_optimizer(steps):
    if FLAGS.cosine:
        rate = keras.optimizers.schedules.CosineDecay(
            FLAGS.learning_rate / 10,
            steps - steps // 10,
            warmup_target=FLAGS.learning_rate,
            warmup_steps=steps // 10,
        )
    else:
        boundaries = [int(float(share) * steps) for share in FLAGS.milestones]
        rates = [FLAGS.learning_rate * 0.1**i for i in range(len(boundaries))]
        rates.append(FLAGS.learning_rate * 0.1 ** len(boundaries))
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            boundaries, rates
        )
    sgd = keras.optimizers.SGD(rate, momentum=FLAGS.momentum)
    return keras_bcgd.BlendedOptimizer(
        sgd, blending=FLAGS.blending, l2=FLAGS.l2
    )


def main(_):
    if FLAGS.stage == "quantized" and FLAGS.init_from is None:
        raise app.UsageError("--stage=quantized needs --init_from=FILE.keras")
    os.makedirs(FLAGS.workdir, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    (x, y), (x_test, y_test) = load_cifar10(FLAGS.data_dir)
    x, y = x[: FLAGS.train_images], y[: FLAGS.train_images]
    model = make_model()
    if FLAGS.init_from:
        float_model = keras.models.load_model(FLAGS.init_from, compile=False)
        take_over(model, float_model, normalize(x[:500]))

    batches = Batches(x, y, FLAGS.batch_size, FLAGS.crop, FLAGS.seed)
    model.compile(
        make_optimizer(len(batches) * FLAGS.epochs),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.monotonic()
    test = normalize(x_test), y_test
    history = model.fit(
        batches,
        epochs=FLAGS.epochs,
        validation_data=test,
        validation_batch_size=500,
        verbose=2,
    )
    path = os.path.join(FLAGS.workdir, "model.keras")
    model.save(path)
    accuracies = history.history["val_accuracy"]
    result = {
        "flags": own_flags(),
        "test_accuracy_last": accuracies[-1],
        "test_accuracy_by_epoch": accuracies,
        "seconds": time.monotonic() - start,
    }
    with open(os.path.join(FLAGS.workdir, "result.json"), "w") as file:
        json.dump(result, file, indent=1)
    print(f"{path}: test accuracy {accuracies[-1]:.2%} after the last epoch")


def own_flags():
    """The flags of this file and their values."""
    flags_here = FLAGS.flags_by_module_dict()[sys.argv[0]]
    return {flag.name: flag.value for flag in flags_here}


if __name__ == "__main__":
    app.run(main)
