"""What does measuring batch normalization again gain after a short training?

A small network with depthwise convolutions of few bits learns scikit-learn's
digits in a few epochs. Prints its accuracy on the test images with the moving
averages of the training and with those of `reestimate_batch_norm`, for each
seed, and the median of what was gained.

    python benchmarks/batch_norm.py
"""

import argparse
import statistics

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_bcgd


def digits():
    """Training and test images and labels."""
    data = load_digits()
    x = (data.images * 15 / 255)[..., None].astype("float32")
    return (x[:1200], data.target[:1200]), (x[1200:], data.target[1200:])


def network(bits, momentum):
    layers = [keras.Input((8, 8, 1))]

    def add(layer):
        normalize = keras.layers.BatchNormalization(momentum=momentum)
        layers.extend([layer, normalize, keras_bcgd.QuantReLU(bits=4)])

    add(keras_bcgd.QuantConv2D(16, 3, bits=bits, padding="same"))
    for _ in range(3):
        add(keras_bcgd.QuantDepthwiseConv2D(3, bits=bits, padding="same"))
        add(keras_bcgd.QuantConv2D(32, 1, bits=bits))
    layers.append(keras.layers.GlobalAveragePooling2D())
    layers.append(keras_bcgd.QuantDense(10, bits=8))
    return keras.Sequential(layers)


def accuracies(bits, momentum, epochs, seed):
    """Those of one training, before and after."""
    keras.utils.set_random_seed(seed)
    train, test = digits()
    model = network(bits, momentum)
    model.compile(
        keras_bcgd.BlendedOptimizer(keras.optimizers.Adam(3e-3)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
    _, before = model.evaluate(*test, verbose=0)
    keras_bcgd.reestimate_batch_norm(model, train, batch_size=64, verbose=0)
    _, after = model.evaluate(*test, verbose=0)
    return before, after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.epochs} epochs of 19 steps; accuracy in %, before -> after")
    for bits in (2, 4):
        for momentum in (0.99, 0.9):
            pairs = [
                accuracies(bits, momentum, args.epochs, seed)
                for seed in range(args.seeds)
            ]
            gains = [100 * (after - before) for before, after in pairs]
            shown = ", ".join(
                f"{100 * b:.1f} -> {100 * a:.1f}" for b, a in pairs
            )
            print(
                f"{bits} bits, momentum={momentum}: {shown}; gained "
                f"{statistics.median(gains):.1f} (median), "
                f"{np.min(gains):.1f} to {np.max(gains):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
