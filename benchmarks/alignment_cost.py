"""What does alignment cost in accuracy, with and without AlignForExport?

Goes on training a network that examples/cifar10.py has trained, for one short
epoch, without the callback ("free") and with it ("held"), from the same
weights on the same batches; then aligns a copy as the exporter does:

    python benchmarks/alignment_cost.py --model=model.keras \
        --data_dir=DATA --steps=200 --seeds 0 1

"lost" are test images that are right before alignment and wrong after it,
"won" the others; by chance alone their difference has a standard deviation of
sqrt(lost + won). Losses are cross entropies of the test images.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import ops  # noqa: E402

import keras_bcgd  # noqa: E402
from training import cifar10_data  # noqa: E402

NORMALIZATION = "grid"


def go_on(args, seed, train, align):
    """The network after some more steps."""
    keras.utils.set_random_seed(seed)
    old = keras.models.load_model(args.model)
    # A new optimizer takes its float weights y from the kernels.
    for layer in old.layers:
        if getattr(layer, "kernel_is_quantized", None) is not None:
            layer.kernel.assign(
                ops.copy(keras_bcgd.shadow(old, layer.kernel).value)
            )
            layer.kernel_is_quantized.assign(0)
    old.compile(
        keras_bcgd.BlendedOptimizer(
            keras.optimizers.SGD(args.learning_rate, momentum=0.95), l2=1e-4
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = cifar10_data.Batches(
        *train, 128, seed, normalization=NORMALIZATION
    )
    callbacks = [keras_bcgd.AlignForExport(**settings())] if align else []
    old.fit(
        batches,
        steps_per_epoch=args.steps,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return old


def settings():
    return {"input_range": cifar10_data.input_range(NORMALIZATION)}


def logits_of(model, images):
    x = cifar10_data.normalize(images, NORMALIZATION)
    return np.float64(model.predict(x, batch_size=500, verbose=0))


def loss_of(logits, labels):
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    return np.mean(np.logaddexp.reduce(logits - right, axis=1))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test_images", type=int, default=10000)
    args = parser.parse_args()
    train, (images, labels) = cifar10_data.load(args.data_dir)
    images, labels = images[: args.test_images], labels[: args.test_images]
    print("seed        before  after   lost  won  loss before  after   moved")
    for seed in args.seeds:
        for name in ("free", "held"):
            model = go_on(args, seed, train, name == "held")
            before = logits_of(model, images)
            moved = keras_bcgd.align_for_export(
                model, **settings(), verbose=0
            ).layers
            after = logits_of(model, images) if moved else before
            was, now = (np.argmax(z, 1) == labels for z in (before, after))
            print(
                f"{seed:<5} {name:5} {np.mean(was):7.2%} {np.mean(now):7.2%} "
                f"{np.sum(was & ~now):5} {np.sum(now & ~was):4}  "
                f"{loss_of(before, labels):11.4f} {loss_of(after, labels):7.4f}"
                f" {len(moved):5} layers",
                flush=True,
            )


if __name__ == "__main__":
    main()
