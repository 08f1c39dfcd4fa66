"""Composite: a layer that is several layers, one after another."""

import keras


class Composite(keras.layers.Layer):
    """A layer whose `call` runs its parts: the base class of some layers.

    What reads a model (`network.calls`) sees the parts in its place, so that
    only they need an integer form. A subclass sets `parts` in its constructor,
    and its parts by their own names besides, so that Keras saves them.

    Attributes:
        parts: List of `(layer, sources)`, in the order in which they run.
            `sources` are ints, what the layer reads: 0 is the input, `k` what
            the k-th part computes, from 1.
    """

    @property
    def common(self):
        """Dict of the arguments that its parts share with it."""
        return {"dtype": self.dtype_policy, "trainable": self.trainable}

    def build(self, input_shape):
        shapes = [tuple(input_shape)]
        for layer, sources in self.parts:
            shape = _one_or_list([shapes[i] for i in sources])
            layer.build(shape)
            shapes.append(tuple(layer.compute_output_shape(shape)))

    def call(self, inputs):
        values = [inputs]
        for layer, sources in self.parts:
            values.append(layer(_one_or_list([values[i] for i in sources])))
        return values[-1]

    def compute_output_shape(self, input_shape):
        shapes = [tuple(input_shape)]
        for layer, sources in self.parts:
            shape = _one_or_list([shapes[i] for i in sources])
            shapes.append(tuple(layer.compute_output_shape(shape)))
        return shapes[-1]


def _one_or_list(values):
    return values if len(values) > 1 else values[0]
