"""Networks that several tests of the exporter use."""

from export_helpers import network
from keras import layers

import keras_bcgd as kb


def two_convolutions(weight_bits, activation_bits):
    def block(filters, **settings):
        return [
            kb.QuantConv2D(filters, 3, bits=weight_bits, **settings),
            layers.BatchNormalization(),
            kb.QuantReLU(activation_bits),
        ]

    return network((8, 8, 3), *block(8, padding="same"), *block(12, strides=2))


def classifier(bits=8, **settings):
    return network(
        (8, 8, 3),
        kb.QuantConv2D(8, 3, bits=4),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        layers.Flatten(),
        kb.QuantDense(10, bits=bits, **settings),
    )
