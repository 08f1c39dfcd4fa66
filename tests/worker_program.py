"""One of several processes that train the network of test_replicas together.

Called with a float type, whether batch normalization is synchronized, and the
file for what comes out.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
import test_replicas


def main(floatx, synchronized, path):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    model = test_replicas.network(strategy, synchronized == "True")
    sums = test_replicas.train(model, strategy, *test_replicas.batches())
    variables = model.variables + model.optimizer.variables
    layers = test_replicas.quantized_layers(model)
    np.savez(
        path,
        sums=sums,
        **{f"shadow{i}": y for i, y in enumerate(test_replicas.shadows(model))},
        **{
            f"codes{i}": layer.kernel_scale_and_codes()[1]
            for i, layer in enumerate(layers)
        },
        **{
            f"variable{i}": keras.ops.convert_to_numpy(variable)
            for i, variable in enumerate(variables)
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
