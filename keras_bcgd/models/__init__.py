"""The networks of the slides' experiments, and a small one for phones.

Each is a plain functional model of the layers of this package and of Keras.
With `weight_bits=32, activation_bits=32`, no `branch_bits` and no
`classifier_bits` it is its own float twin: layers that hold the same weights
have the same names in both.
"""

from keras_bcgd.models.mobilenet import mobilenet_cifar as mobilenet_cifar
from keras_bcgd.models.recipe import Recipe as Recipe
from keras_bcgd.models.resnet import resnet18 as resnet18
from keras_bcgd.models.resnet import resnet_cifar as resnet_cifar
from keras_bcgd.models.vgg import vgg11 as vgg11
