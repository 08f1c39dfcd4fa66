"""The plan, its notes and the exceptions for single layers."""

import keras
import numpy as np
import pytest
from conversion_helpers import FLOAT
from conversion_helpers import becomes
from conversion_helpers import kept
from conversion_helpers import nested
from conversion_helpers import numpy_of
from conversion_helpers import plain
from conversion_helpers import quantized
from conversion_helpers import residual
from conversion_helpers import several
from conversion_helpers import with_layer
from keras import layers
from keras import ops

import keras_bcgd as kb


def test_first_and_last():
    assert [
        becomes(plain(), first_last=n)["first"][1] for n in (8, 1, None)
    ] == [
        8,
        1,
        4,
    ]
    found = becomes(several(), first_last=8)
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits == {"tower/conv": 8, "first": 8, "second": 8}
    found = becomes(residual(), weight_bits=3)
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits.pop("stem_conv") == bits.pop("classifier") == 8
    assert set(bits.values()) == {3}
    assert "classifier" not in becomes(plain(), first_last=32)


def test_what_cannot_be_quantized_is_listed_once():
    with pytest.warns(UserWarning) as record:
        kb.quantize_model(kept())
    (ours,) = (found for found in record if found.category is UserWarning)
    text = str(ours.message)
    assert "no layer but an operation: stays float: 'add" in text
    assert "gelu has no quantized form, its output stays float: 'conv'" in text
    assert "ELU has no quantized form, its output stays float" in text
    assert ours.filename == __file__


def my_relu(x):
    return ops.relu(x)


RELUS = [
    (ops.relu, None),
    (ops.relu6, 6.0),
    (layers.ReLU(), None),
    (layers.ReLU(2.0), 2.0),
    (keras.activations.relu6, 6.0),
]


@pytest.mark.parametrize("relu, largest", RELUS)
def test_what_else_is_a_relu(relu, largest):
    source = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation=relu, name="inside"),
            layers.Activation(relu, name="alone"),
            layers.Dense(2),
        ]
    )
    found = becomes(source)
    assert found["inside"][0] == "QuantDense + QuantReLU"
    assert found["alone"][0] == "QuantReLU"
    model = quantized(source, 4, 4)
    for name in ("inside_relu", "alone"):
        bound = model.get_layer(name).alpha_constraint
        assert bound.max_value == (largest and largest / 15)
    x = np.random.default_rng(0).standard_normal((4, 4))
    for options in (FLOAT, {"weight_bits": 2, "activation_bits": 32}):
        model = quantized(source, **options)
    model = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(model(x)), numpy_of(source(x)))


@pytest.mark.parametrize(
    "layer, note",
    [
        (
            layers.ReLU(threshold=0.5),
            "ReLU with threshold=0.5 has no quantized",
        ),
        (
            layers.ReLU(6.0, negative_slope=0.1),
            "ReLU with negative_slope=0.1 has no quantized form",
        ),
        (
            layers.Dense(3, activation=layers.ReLU(threshold=0.5)),
            "ReLU with threshold=0.5 has no quantized form",
        ),
        (
            layers.Dense(3, activation=my_relu),
            "my_relu is not known, its output stays float; for a ReLU use "
            "activation='relu' or layers.ReLU",
        ),
        (layers.Dense(3, activation="gelu"), "gelu has no quantized form"),
    ],
)
def test_notes_on_activations(layer, note):
    plan = kb.conversion_plan(with_layer(layer))
    (problem,) = plan.layers[0].problems
    assert note in problem


def test_notes_on_operations():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    x = ops.relu(x) + ops.relu6(x)
    x = ops.concatenate([x, x + 1.0])
    plan = kb.conversion_plan(keras.Model(inputs, layers.Dense(2)(x)))
    found = [(row.kind, row.problems) for row in plan.layers[1:-1]]
    advice = [
        ("Relu", " (use layers.ReLU())"),
        ("Relu6", " (use layers.ReLU(6.0))"),
        ("Add", " (use layers.Add())"),
        ("Add", ""),
        ("Concatenate", " (use layers.Concatenate())"),
    ]
    assert found == [
        (kind, [f"no layer but an operation{text}: stays float"])
        for kind, text in advice
    ]


def test_the_plan_is_a_table():
    text = str(kb.conversion_plan(plain(), 2, 3)).splitlines()
    assert text[0].split() == "layer type becomes W bits A bits note".split()
    assert text[1].split() == "first Conv2D QuantConv2D + QuantReLU 8 3".split()
    assert text[3].split() == "pool MaxPooling2D - - -".split()
    assert len(text) == 9
    lines = str(kb.conversion_plan(kept())).splitlines()
    (line,) = [line for line in lines if line.startswith("elu")]
    assert line.endswith("ELU has no quantized form, its output stays float")


def test_overrides_by_name_class_and_function():
    model = residual()
    found = becomes(model, overrides={"?_conv": {"weight_bits": 1}})
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits["a_conv"] == bits["b_conv"] == 1
    assert (bits["stem_conv"], bits["short_conv"]) == (8, 4)
    found = becomes(model, overrides={layers.Dense: {"weight_bits": 2}})
    assert (found["classifier"][1], found["stem_conv"][1]) == (2, 8)

    def rule(layer):
        return {"weight_bits": 5} if layer.name == "short_conv" else None

    found = becomes(model, overrides=rule)
    assert (found["short_conv"][1], found["a_conv"][1]) == (5, 4)
    found = becomes(model, overrides={"a_relu": {"activation_bits": 6}})
    assert (found["a_relu"][2], found["b_relu"][2]) == (6, 4)
    found = becomes(nested(), overrides={"block/*": {"weight_bits": 1}})
    assert (found["block/a_conv"][1], found["stem/conv"][1]) == (1, 8)


def test_later_overrides_count_more():
    general = {"*": {"weight_bits": 2, "activation_bits": 2}}
    special = {"hidden": {"weight_bits": 6}}
    found = becomes(plain(), overrides={**general, **special})
    assert found["hidden"][1] == 6
    assert found["first"] == ("QuantConv2D + QuantReLU", 2, 2)
    found = becomes(plain(), overrides={**special, **general})
    assert found["hidden"][1] == 2


def test_layers_left_in_float():
    overrides = {"first": "float", layers.ReLU: "float", "pool": {}}
    del overrides["pool"]
    found = becomes(plain(), overrides=overrides)
    assert "first" not in found and "hidden_relu" not in found
    model = quantized(plain(), overrides=overrides)
    assert type(model.get_layer("first")) is layers.Conv2D
    assert model.get_layer("first").activation is keras.activations.relu
    assert becomes(plain(), overrides=lambda layer: "float") == {}


def test_overrides_reach_the_layers():
    model = quantized(
        residual(),
        overrides={
            "a_conv": {"projection": "exact", "per_channel": True},
            "a_relu": {"alpha_gradient": "ae", "branch_bits": 6},
            "stem_relu": {"alpha_initializer": "slides"},
        },
    )
    layer = model.get_layer("a_conv")
    assert (layer.projection, layer.per_channel) == ("exact", True)
    layer = model.get_layer("a_relu")
    assert (layer.alpha_gradient, layer.branch_bits) == ("ae", 6)
    assert float(model.get_layer("stem_relu").alpha) == np.float32(1 / 15)
    assert model.get_layer("b_conv").projection == "lloyd"


BAD_OVERRIDES = [
    ({"nowhere": {"weight_bits": 2}}, "'nowhere', which matches no layer"),
    ({layers.LSTM: "float"}, "LSTM, which matches no layer"),
    ({"pool": "float"}, "'pool', which matches no layer that can be quantized"),
    ({"hidden": {"activation_bits": 2}}, "sets activation_bits, of which no"),
    ({"hidden_relu": {"weight_bits": 2}}, "sets weight_bits, of which no"),
    ({"hidden": {"bits": 2}}, "'hidden' must be \"float\" or a dict with some"),
    ({"hidden": None}, "Received: None"),
    ({"hidden": {"weight_bits": 9}}, "layer 'hidden': `weight_bits` must be"),
    ({3: "float"}, "Received: 3 among them"),
    ([("hidden", "float")], "`overrides` must be a dict or a function"),
    (lambda layer: 3, "Received: 3"),
]


@pytest.mark.parametrize("overrides, message", BAD_OVERRIDES)
def test_bad_overrides_are_refused(overrides, message):
    with pytest.raises(ValueError) as raised:
        kb.conversion_plan(plain(), overrides=overrides)
    assert message in str(raised.value)
    assert "`overrides`" in str(raised.value)
