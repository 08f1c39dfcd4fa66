"""Blended coarse gradient descent around any Keras optimizer.

- `blended`: the BlendedOptimizer, its update rule and its state.
- `blending`: (1 - rho) y + rho w; rho: a number, a schedule or a function.
- `kernels`: what it asks of kernels: projection, grid, new weights, flag.
- `l2`: coupled L2 regularization.
- `wrapper`: what any optimizer around another one has to hand on.
- `rescaling`: y made to follow a kernel whose scale was changed, or stays.
- `of_model`: the BlendedOptimizer of a compiled model, and its shadows.
"""

from keras_bcgd.optimizers.blended import BlendedOptimizer as BlendedOptimizer
from keras_bcgd.optimizers.of_model import (
    blended_optimizer as blended_optimizer,
)
from keras_bcgd.optimizers.of_model import shadow as shadow
from keras_bcgd.optimizers.rescaling import rescale as rescale
from keras_bcgd.optimizers.rescaling import round_to_codes as round_to_codes
