"""One of several processes that run a function below together.

Called with the file for what comes out, the function and its arguments.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
import test_replicas


def train(strategy, floatx, synchronized):
    """Trains the network of test_replicas: all that it holds at the end."""
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    model = test_replicas.network(strategy, synchronized == "True")
    sums = test_replicas.train(model, strategy, *test_replicas.batches())
    found = {"sums": sums}
    for i, shadow in enumerate(test_replicas.shadows(model)):
        found[f"shadow{i}"] = shadow
    for i, layer in enumerate(test_replicas.quantized_layers(model)):
        scale, codes = layer.kernel_scale_and_codes()
        found |= {f"scale{i}": scale, f"codes{i}": codes}
        found[f"kernel{i}"] = keras.ops.convert_to_numpy(layer.kernel)
    for i, variable in enumerate(model.variables + model.optimizer.variables):
        found[f"variable{i}"] = keras.ops.convert_to_numpy(variable)
    return found


def overflow(strategy, half):
    """One step that overflows on one worker: see test_replicas."""
    before, after, factor = test_replicas.overflow(strategy, int(half))
    return {
        "factor": factor,
        **{f"before{i}": weights for i, weights in enumerate(before)},
        **{f"after{i}": weights for i, weights in enumerate(after)},
    }


def main(path, name, *args):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = globals()[name](strategy, *args)
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
