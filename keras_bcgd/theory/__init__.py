"""The two-layer theory of coarse gradients, in NumPy.

A student `v' sigma(Z w)` with the binarized ReLU learns a teacher `v*' sigma(Z
w*)` from Gaussian inputs Z. Slides from "Two-layer neural network model with
binarized ReLU activation" on; docs/theory.md has the statements.

- `sampled`: the network, its sample loss and the coarse gradient g(v, w; Z),
  of single inputs and as means over samples.
- `population`: f(v, w), its gradients, E[g] and h in closed form.
- `critical`: where the gradients vanish, and which of these points are minima.
- `descent`: normalized coarse gradient descent, in expectation and sampled;
  the step sizes and starts of the convergence theorem.

Every function works on one problem or on many at once: `v` and `v_star` have
shape `(..., m)`, `w` and `w_star` `(..., n)`, and the axes in front broadcast.
Of `w_star` only the direction counts. All is computed in float64.
"""

from keras_bcgd.theory.critical import classify as classify
from keras_bcgd.theory.critical import saddle_angle as saddle_angle
from keras_bcgd.theory.critical import stationary_v as stationary_v
from keras_bcgd.theory.descent import Descent as Descent
from keras_bcgd.theory.descent import descend as descend
from keras_bcgd.theory.descent import descend_empirical as descend_empirical
from keras_bcgd.theory.descent import descend_sampled as descend_sampled
from keras_bcgd.theory.descent import in_theorem_region as in_theorem_region
from keras_bcgd.theory.descent import step_size_bound as step_size_bound
from keras_bcgd.theory.population import angle as angle
from keras_bcgd.theory.population import (
    expected_coarse_gradient as expected_coarse_gradient,
)
from keras_bcgd.theory.population import h as h
from keras_bcgd.theory.population import (
    population_gradients as population_gradients,
)
from keras_bcgd.theory.population import population_loss as population_loss
from keras_bcgd.theory.sampled import binarized_relu as binarized_relu
from keras_bcgd.theory.sampled import coarse_derivative as coarse_derivative
from keras_bcgd.theory.sampled import coarse_gradient as coarse_gradient
from keras_bcgd.theory.sampled import empirical_gradients as empirical_gradients
from keras_bcgd.theory.sampled import empirical_loss as empirical_loss
from keras_bcgd.theory.sampled import network as network
from keras_bcgd.theory.sampled import sample_gradient_v as sample_gradient_v
from keras_bcgd.theory.sampled import sample_loss as sample_loss
