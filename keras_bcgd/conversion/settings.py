"""How each layer is to be quantized: the arguments and their exceptions."""

import dataclasses
import fnmatch

import keras

from keras_bcgd import activations
from keras_bcgd.layers.quant_add_relu import check_branch_bits
from keras_bcgd.layers.quant_kernel import FLOAT_BITS
from keras_bcgd.projections import check_method
from keras_bcgd.utils.checks import check_bits

FLOAT = "float"

OF_WEIGHTS = ("weight_bits", "projection", "per_channel")
OF_ACTIVATIONS = ("activation_bits", "alpha_gradient", "alpha_initializer")
OF_BRANCHES = ("branch_bits",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `quantize_model` is told, for one layer; see there."""

    weight_bits: int = 4
    activation_bits: int = 4
    branch_bits: int | None = 8
    projection: str = "lloyd"
    per_channel: bool = False
    alpha_gradient: str = "three_valued"
    alpha_initializer: object = "half_gaussian"

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits"):
            check_bits(getattr(self, name), allow_float=True, name=name)
        check_branch_bits(self.branch_bits)
        if self.has_codes:
            check_method(self.projection, self.weight_bits)
        if not isinstance(self.per_channel, bool):
            raise ValueError(
                "`per_channel` must be True or False. "
                f"Received: per_channel={self.per_channel!r}"
            )
        activations.check_alpha_gradient(self.alpha_gradient)

    @property
    def has_codes(self):
        """Whether the weights are quantized."""
        return self.weight_bits != FLOAT_BITS

    @property
    def has_staircase(self):
        """Whether a ReLU is quantized."""
        return self.activation_bits != FLOAT_BITS

    @property
    def has_branches(self):
        """Whether what no ReLU quantizes is rounded to `branch_bits`."""
        return self.has_staircase and self.branch_bits is not None


NAMES = tuple(field.name for field in dataclasses.fields(Settings))


class Overrides:
    """The argument `overrides` of `quantize_model`.

    Args:
        overrides: See `quantize_model`.
    """

    def __init__(self, overrides):
        if overrides is None:
            overrides = {}
        if not callable(overrides) and not isinstance(overrides, dict):
            raise ValueError(
                "`overrides` must be a dict or a function of a layer. "
                f"Received: overrides={overrides!r}"
            )
        self.function = overrides if callable(overrides) else None
        self.rules = {} if callable(overrides) else dict(overrides)
        for key, value in self.rules.items():
            if not isinstance(key, str) and not _is_layer_class(key):
                raise ValueError(
                    "The keys of `overrides` must be names of layers, which "
                    "may have the wildcards *, ? and [], or classes of layers. "
                    f"Received: {key!r} among them"
                )
            _check_value(value, _written(key))
        self._used = {key: set() for key in self.rules}

    def apply(self, settings, paths, layer, names):
        """The settings of one layer.

        Args:
            settings: `Settings` before any exception.
            paths: List of strings, one unless models share it.
            layer: The Keras layer.
            names: The names of the settings that matter to this layer.
        """
        found = [value for _, value in self._matching(paths, layer, names)]
        if self.function is not None:
            value = self.function(layer)
            if value is not None:
                _check_value(value, f"{layer.name!r}")
                found.append(value)
        changes = {}
        for value in found:
            changes.update(_as_dict(value))
        try:
            return dataclasses.replace(settings, **changes)
        except ValueError as error:
            raise ValueError(
                f"`overrides` for the layer '{paths[0]}': {error}"
            ) from None

    def _matching(self, paths, layer, names):
        for key, value in self.rules.items():
            if _matches(key, paths, layer):
                self._used[key].update(names)
                yield key, value

    def check_all_used(self):
        """Raises a `ValueError` if an exception changes nothing."""
        for key, value in self.rules.items():
            used, written = self._used[key], _written(key)
            if not used:
                raise ValueError(
                    f"`overrides` has {written}, which matches no layer that "
                    "can be quantized. `str(conversion_plan(model))` lists "
                    f"the names. Received: {{{written}: {value!r}}}"
                )
            if value == FLOAT:
                continue
            idle = sorted(set(value) - used)
            if idle:
                raise ValueError(
                    f"`overrides` for {written} sets {', '.join(idle)}, of "
                    "which no layer that it matches has any use: "
                    "activations are those of the layers that compute a ReLU. "
                    f"Received: {{{written}: {value!r}}}"
                )


def _is_layer_class(key):
    return isinstance(key, type) and issubclass(key, keras.layers.Layer)


def _written(key):
    return f"'{key}'" if isinstance(key, str) else key.__name__


def _matches(key, paths, layer):
    if not isinstance(key, str):
        return isinstance(layer, key)
    return any(fnmatch.fnmatchcase(name, key) for name in (*paths, layer.name))


def _check_value(value, written):
    if value == FLOAT:
        return
    if not isinstance(value, dict) or not set(value) <= set(NAMES):
        raise ValueError(
            f'`overrides` for {written} must be "{FLOAT}" or a dict with '
            f"some of the keys {', '.join(NAMES)}. Received: {value!r}"
        )


def _as_dict(value):
    if value == FLOAT:
        return {"weight_bits": FLOAT_BITS, "activation_bits": FLOAT_BITS}
    return value
