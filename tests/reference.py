"""Plain NumPy versions of the method, to compare the library with."""

import numpy as np


def largest_code(bits):
    return 1 if bits <= 2 else 2 ** (bits - 1) - 1


def project(y, bits):
    """proj_Q(y) with one scale: slides' rules, one Lloyd round from s0."""
    if bits == 1:
        return np.mean(np.abs(y)) * np.where(y >= 0, 1.0, -1.0)
    if bits == 2:
        largest_first = np.sort(np.abs(y).ravel())[::-1]
        t = np.arange(1, y.size + 1)
        best = np.argmax(np.cumsum(largest_first) ** 2 / t)
        codes = np.sign(y) * (np.abs(y) >= largest_first[best])
    else:
        limit = largest_code(bits)
        s0 = 2 / (2**bits - 1) * np.max(np.abs(y))
        codes = np.clip(np.round(y / s0), -limit, limit)
    return codes * np.sum(codes * y) / np.sum(codes * codes)


def quant_relu(x, alpha, bits):
    """sigma(x, alpha), coarse d/dx and three-valued d/d alpha."""
    top = 2**bits - 1
    inside = (x > 0) & (x <= top * alpha)
    above = x > top * alpha
    sigma = alpha * np.clip(np.ceil(x / alpha), 0, top)
    return sigma, 1.0 * inside, 2 ** (bits - 1) * inside + top * above


class TwoLayerBCGD:
    """x -> Dense(w1, b1) -> sigma(., alpha) -> Dense(w2, b2), squared error.

    Trained by blended coarse gradient descent with SGD and momentum, and
    coupled L2 regularization, that of alpha with a strength of its own.
    """

    def __init__(self, parameters, bits, activation_bits, **settings):
        self.y = {k: np.array(v, "float64") for k, v in parameters.items()}
        self.bits = bits
        self.activation_bits = activation_bits
        self.settings = settings
        self.velocity = {k: np.zeros_like(v) for k, v in self.y.items()}
        self.w = self._quantized()

    def _quantized(self):
        w = dict(self.y)
        for name in ("w1", "w2"):
            w[name] = project(self.y[name], self.bits)
        return w

    def gradients(self, x, target):
        w = self.w
        hidden = x @ w["w1"] + w["b1"]
        sigma, by_x, by_alpha = quant_relu(
            hidden, w["alpha"], self.activation_bits
        )
        error = sigma @ w["w2"] + w["b2"] - target
        upstream = 2 * error / error.size
        back = upstream @ w["w2"].T
        return {
            "w1": x.T @ (back * by_x),
            "b1": np.sum(back * by_x, axis=0),
            "alpha": np.sum(back * by_alpha)
            * self.settings.get("alpha_gradient_scale", 1),
            "w2": sigma.T @ upstream,
            "b2": np.sum(upstream, axis=0),
        }

    def step(self, x, target):
        rate = self.settings["learning_rate"]
        rho = self.settings["blending"]
        gradients = self.gradients(x, target)
        for name, gradient in gradients.items():
            l2 = self.settings["l2"]
            if name == "alpha":
                l2 = self.settings.get("alpha_l2", 0)
            gradient = gradient + l2 * self.y[name]
            velocity = self.settings["momentum"] * self.velocity[name]
            self.velocity[name] = velocity = velocity - rate * gradient
            if name == "alpha":
                velocity = self.settings["multiplier"] * velocity
            blended = (1 - rho) * self.y[name] + rho * self.w[name]
            self.y[name] = blended + velocity
        self.y["alpha"] = np.maximum(self.y["alpha"], 1e-3)
        self.w = self._quantized()
