"""The network of the theory, made of the layers of this package.

One staircase step of height 1 is the binarized ReLU, and its coarse derivative
that of the clipped ReLU: `derivative="clipped_relu"` in `keras_bcgd.theory`.
"""

import keras
import numpy as np
import pytest
import theory_helpers
from keras import ops

import keras_bcgd
from keras_bcgd import theory

M, N = 5, 10
# Keras keeps learning rates in float32: one that is not rounded there.
STEP_SIZE = 0.25

if keras.backend.backend() != "tensorflow":
    pytest.skip("compares in float64, which JAX has not by default", True)


class UnitLength(keras.constraints.Constraint):
    """w <- w / ||w||. (Keras' own adds 1e-7 to the length.)"""

    def __call__(self, w):
        return w / ops.norm(w)


class HalfSquare(keras.losses.Loss):
    """The slides' sample loss, in the precision of the layers."""

    def __init__(self):
        super().__init__(dtype=keras.config.dtype_policy().compute_dtype)

    def call(self, target, output):
        return ops.mean((target - output) ** 2, axis=-1) / 2


def student(v, w, step_size):
    """v' sigma(Z w) with trainable v and w, compiled for plain SGD."""
    staircase = keras_bcgd.QuantReLU(bits=1, alpha_initializer="ones")
    staircase.trainable = False
    model = keras.Sequential(
        [
            keras.Input((M, N)),
            keras.layers.Dense(
                1, use_bias=False, kernel_constraint=UnitLength(), name="w"
            ),
            staircase,
            keras.layers.Flatten(),
            keras.layers.Dense(1, use_bias=False, name="v"),
        ]
    )
    model.get_layer("w").kernel.assign(w[:, None])
    model.get_layer("v").kernel.assign(v[:, None])
    # Compiling takes longer than it saves here.
    model.compile(
        keras.optimizers.SGD(step_size), loss=HalfSquare(), jit_compile=False
    )
    return model, staircase


def weights(model):
    """(v, w) as arrays."""
    return [
        ops.convert_to_numpy(model.get_layer(name).kernel)[:, 0]
        for name in ("v", "w")
    ]


def problem_of_seed(seed):
    rng = np.random.default_rng(seed)
    problem = theory_helpers.problems_of_the_theorem(rng, 1, M, N)
    return [array[0] for array in problem], rng


def angle_after(seed, steps, batch_size=1000, step_size=0.1):
    """theta(w, w*) in degrees after training on fresh batches."""
    (v, w, v_star, w_star), rng = problem_of_seed(seed)
    model, staircase = student(v, w, step_size)
    for _ in range(steps):
        Z = rng.standard_normal((batch_size, M, N))
        target = theory.network(v_star, w_star, Z)
        model.train_on_batch(Z, target[:, None])
    assert float(staircase.alpha) == 1
    return np.degrees(theory.angle(weights(model)[1], w_star))


def test_layers_descend_as_the_theory_does(float64):
    (v, w, v_star, w_star), rng = problem_of_seed(1)
    # Numbers that float32 holds, as Keras hands data on in float32.
    v_star = np.round(4 * v_star) / 4
    Z = rng.standard_normal((400, M, N)).astype("float32").astype("float64")
    target = theory.network(v_star, w_star, Z)
    model, _ = student(v, w, step_size=STEP_SIZE)
    model.fit(Z, target[:, None], batch_size=400, epochs=50, verbose=0)
    v_keras, w_keras = weights(model)

    def theory_gap(derivative):
        path = theory.descend_empirical(
            v, w, v_star, w_star, Z, STEP_SIZE, 50, derivative
        )
        gaps = np.abs(path.v - v_keras), np.abs(path.w - w_keras)
        return max(np.max(gap) for gap in gaps)

    # 50 steps of float64, summed in another order.
    assert theory_gap("clipped_relu") < 1e-12
    for other in ("relu", "identity"):
        assert theory_gap(other) > 1e-3
    assert theory.angle(w_keras, w_star) < 0.5 * theory.angle(w, w_star)


def test_layers_turn_to_the_teacher():
    """The slow test below with one seed and a third of the steps."""
    angle = angle_after(seed=0, steps=500)
    assert angle < 10, angle


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_layers_recover_the_teacher(seed):
    angle = angle_after(seed, steps=1500)
    print(f"seed {seed}: {angle:.4f} degrees")
    assert angle < 1, angle
