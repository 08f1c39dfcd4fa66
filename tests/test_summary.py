"""summary: its numbers against loops, published counts and NumPy."""

import html
import itertools
import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

import keras_bcgd as kb
from keras_bcgd import models
from keras_bcgd.analysis.macs import macs_of_call


def rows_of(table):
    return {row["layer"]: row for row in table.rows}


# Operations


def count_by_loops(kind, arguments, size):
    """Multiplications of a convolution of a size x size image of 4 channels.

    One by one, the padded positions too.
    """
    filters = arguments.get("filters", 4 * arguments.get("depth_multiplier", 1))
    k, stride = arguments["kernel_size"], arguments.get("strides", 1)
    dilation = arguments.get("dilation_rate", 1)
    padding = arguments.get("padding", "valid")
    reach = dilation * (k - 1) + 1
    if kind == "transpose":
        positions = range(size)
    elif padding == "same":
        positions = range(0, size, stride)
    else:
        positions = range(0, size - reach + 1, stride)
    groups = arguments.get("groups", 1)
    count = 0
    for _ in itertools.product(positions, positions):
        for _ in itertools.product(range(k), range(k)):
            for channel, out in itertools.product(range(4), range(filters)):
                if kind == "depthwise":
                    used = out // arguments.get("depth_multiplier", 1)
                    count += channel == used
                else:
                    same = channel * groups // 4 == out * groups // filters
                    count += same
    return count


@pytest.mark.parametrize(
    "cls, kind, arguments",
    [
        (layers.Conv2D, "conv", {"filters": 6, "kernel_size": 3}),
        (
            layers.Conv2D,
            "conv",
            {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2},
        ),
        (
            layers.Conv2D,
            "conv",
            {"filters": 6, "kernel_size": 3, "groups": 2, "dilation_rate": 2},
        ),
        (
            layers.DepthwiseConv2D,
            "depthwise",
            {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        ),
        (
            layers.Conv2DTranspose,
            "transpose",
            {"filters": 3, "kernel_size": 2, "strides": 2},
        ),
        (kb.QuantConv2D, "conv", {"filters": 5, "kernel_size": 2}),
        (
            kb.QuantConv2DTranspose,
            "transpose",
            {"filters": 3, "kernel_size": 3, "strides": 2},
        ),
        (kb.QuantDepthwiseConv2D, "depthwise", {"kernel_size": 3}),
    ],
)
def test_macs_are_those_of_loops(cls, kind, arguments):
    model = keras.Sequential([keras.Input((7, 7, 4)), cls(**arguments)])
    expected = count_by_loops(kind, arguments, 7)
    assert expected > 0
    assert kb.summary(model).totals["macs"] == expected


def test_macs_of_a_separable_convolution_are_those_of_its_parts():
    def macs(*parts):
        model = keras.Sequential([keras.Input((7, 7, 4)), *parts])
        return kb.summary(model).totals["macs"]

    both = macs(layers.SeparableConv2D(5, 3, depth_multiplier=2))
    parts = layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2D(5, 1)
    assert both == macs(*parts) == 25 * 8 * 9 + 25 * 8 * 5


def test_macs_of_matrices():
    inputs = keras.Input((6, 8))
    x = layers.Dense(5, name="each_of_six")(inputs)
    x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3))(x)
    table = kb.summary(keras.Model(inputs, x))
    assert [row["macs"] for row in table.rows] == [6 * 8 * 5, 6 * 5 * 2 * 3]


@pytest.mark.parametrize(
    "name, published",
    [
        # He et al.: 1.8 G; torchvision: 1.814 G without biases.
        ("resnet18", 1.814e9),
        # Simonyan and Zisserman's D: 15.47 G.
        pytest.param("VGG16", 15.47e9, marks=pytest.mark.slow),
        # Howard et al.: 569 M. Sandler et al.: 300 M.
        ("MobileNet", 569e6),
        ("MobileNetV2", 300e6),
    ],
)
def test_macs_are_the_published_ones(name, published):
    if keras.backend.backend() == "jax":
        pytest.skip("the numbers are the same, and each layer compiled alone")
    if name == "resnet18":
        model = models.resnet18(weight_bits=32, activation_bits=32)
    else:
        model = getattr(keras.applications, name)(weights=None)
    totals = kb.summary(model).totals
    assert totals["macs"] == pytest.approx(published, rel=3e-3)
    assert list(totals["macs_by_bits"]) == ["32W32A"]
    assert totals["not_counted"] == []


def test_macs_of_every_call_weights_once():
    shared = kb.QuantDense(4, bits=2, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared], name="inner")
    inputs = keras.Input((4,))
    x = inner(shared(inputs))
    table = kb.summary(keras.Model(inputs, inner(x)))
    (row,) = table.rows
    assert (row["calls"], row["macs"], row["weights"]) == (3, 3 * 16, 16)
    assert table.totals["macs"] == 48
    assert "QuantDense x3" in str(table)


def test_an_unknown_layer_is_named():
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2, name="lstm")])
    table = kb.summary(model)
    assert table.rows[0]["macs"] is None
    assert table.totals["not_counted"] == ["lstm"]
    assert "not known: 'lstm'" in str(table)
    assert macs_of_call(layers.ReLU(), (1, 3), (1, 3)) == 0


# Bits and bytes


def test_bits_of_weights_and_of_what_they_read():
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = kb.QuantConv2D(4, 3, bits=2, padding="same", name="first")(x)
    x = layers.BatchNormalization()(x)
    x = kb.QuantReLU(3, name="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = kb.QuantConv2D(4, 3, bits=1, padding="same", name="second")(x)
    y = kb.QuantIdentity(5, name="identity")(x)
    x = layers.Concatenate()([y, kb.QuantReLU(2)(x)])
    x = kb.QuantConv2D(4, 1, bits=4, name="third")(x)
    x = kb.QuantReLU(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = kb.QuantDense(6, bits=8, name="dense")(x)
    x = layers.Dense(2, name="float")(x + 1.0)
    table = kb.summary(keras.Model(inputs, x))
    rows = rows_of(table)
    found = {
        name: (rows[name]["weight_bits"], rows[name]["activation_bits"])
        for name in ("first", "relu", "second", "third", "dense", "float")
    }
    assert found == {
        "first": (2, 8),
        "relu": (None, 3),
        "second": (1, 3),
        "third": (4, 5),
        "dense": (8, 8),
        "float": (32, 32),
    }
    assert rows["identity"]["activation_bits"] == 5
    assert table.totals["macs_by_bits"] == {
        "2W8A": 64 * 27 * 4,
        "1W3A": 16 * 36 * 4,
        "4W5A": 16 * 8 * 4,
        "8W8A": 24,
        "32W32A": 12,
    }


@pytest.mark.parametrize("bits", [2, 32])
def test_a_models_inputs_are_bytes_for_quantized_weights_only(bits):
    layer = kb.QuantDense(4, bits=bits)
    table = kb.summary(keras.Sequential([keras.Input((4,)), layer]))
    (found,) = table.totals["macs_by_bits"]
    assert found == ("2W8A" if bits == 2 else "32W32A")


def test_mixed_precision_changes_nothing():
    def macs_by_bits():
        chain = [
            keras.Input((8, 8, 3)),
            kb.QuantConv2D(4, 3, bits=2),
            kb.QuantReLU(3),
            kb.QuantConv2D(4, 3, bits=2),
        ]
        return kb.summary(keras.Sequential(chain)).totals["macs_by_bits"]

    expected = macs_by_bits()
    assert set(expected) == {"2W8A", "2W3A"}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert macs_by_bits() == expected
    finally:
        keras.config.set_dtype_policy(before)


def test_bytes():
    model = models.resnet_cifar(8, weight_bits=3, branch_bits=8)
    table = kb.summary(model)
    kernels = {
        layer.name: layer
        for layer in model.layers
        if hasattr(layer, "quantized_kernel")
    }
    rows = rows_of(table)
    for name, layer in kernels.items():
        size = np.size(layer.kernel)
        row = rows[name]
        assert row["weights"] == row["int8_bytes"] == size
        assert row["float32_bytes"] == 4 * size
        assert row["packed_bytes"] == -(-size * layer.bits // 8)
    totals = table.totals
    assert totals["packed_bytes"] == sum(
        rows[name]["packed_bytes"] for name in kernels
    )
    everything = sum(
        np.size(weight)
        for weight in model.weights
        if weight.name != "kernel_is_quantized"
    )
    assert totals["weights"] + totals["other_numbers"] == everything


def network_for_flash():
    return keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            kb.QuantConv2D(24, 3, bits=1),
            kb.QuantReLU(4),
            kb.QuantDepthwiseConv2D(5, depth_multiplier=2, bits=2),
            kb.QuantReLU(4),
            kb.QuantConv2D(24, 1, bits=4),
            kb.QuantReLU(4),
            kb.QuantConv2DTranspose(8, 2, bits=3, strides=2),
            kb.QuantReLU(4),
            kb.QuantConv2D(5, 1, bits=2),
            kb.QuantReLU(4),
            layers.Flatten(),
            kb.QuantDense(9, bits=8),
        ]
    )


def test_bytes_in_flash():
    table = kb.summary(network_for_flash(), show_flash=True)
    rows = [row for row in table.rows if row["weights"]]
    #                conv, depthwise,   1x1, transposed, small, dense
    sizes = [24 * 9 * 8, 48 * 25, 24 * 48, 24 * 8 * 4, 8 * 5, 16 * 5 * 9]
    assert [row["int8_bytes"] for row in rows] == sizes
    assert [row["int4_bytes"] for row in rows] == [
        *(size // 2 for size in sizes[:3]),
        None,  # there are no int4 kernels
        sizes[4] // 2,
        None,  # 8 bits
    ]
    # Indices of 1, 2, 4 and 3 bits, a header and the values; TFLM_DECODE.
    tables = [
        sizes[0] // 8 + 16 + 2 + 64,
        sizes[1] // 4 + 16 + 3 + 64,
        sizes[2] // 2 + 16 + 15 + 64,
        sizes[3] * 3 // 8 + 16 + 7 + 64,
    ]
    assert [row["table_bytes"] for row in rows] == [*tables, None, None]
    int4 = sum(sizes[:3]) // 2 + sizes[3] + sizes[4] // 2 + sizes[5]
    assert table.totals["int4_bytes"] == int4
    assert table.totals["table_bytes"] == sum(tables) + sum(sizes[4:])
    lines = str(table).splitlines()
    assert lines[0].split()[-5:] == ["int4", "B", "tables", "B", "MACs"]
    assert lines[1].split()[-3:-1] == [f"{sizes[0] // 2:,}", f"{tables[0]:,}"]
    for text in (str(table), str(kb.summary(network_for_flash()))):
        assert f"{int4:,} as int4" in text
        assert f"{sum(tables) + sum(sizes[4:]):,} in tables" in text


def test_bytes_in_flash_are_those_of_a_file(tmp_path):
    """What is foretold from bits is what `inspect_tflite` finds in codes."""
    pytest.importorskip("ai_edge_litert")
    model = network_for_flash()
    path = tmp_path / "m.tflite"
    kb.export_tflite(model, path, input_range=(0, 1), align=False, verbose=0)
    rows = [row for row in kb.summary(model).rows if row["weights"]]
    found = [
        one for one in kb.inspect_tflite(path).operators if one.weight_bytes
    ]
    for row, one in zip(rows, found, strict=True):
        assert row["int8_bytes"] == one.int8_bytes
        assert row["int4_bytes"] == one.int4_bytes
        assert row["table_bytes"] == one.table_bytes


def test_float_weights_have_no_tables():
    table = kb.summary(keras.Sequential([keras.Input((64,)), layers.Dense(64)]))
    (row,) = table.rows
    assert row["int4_bytes"] is row["table_bytes"] is None
    for key in ("int8_bytes", "int4_bytes", "table_bytes"):
        assert table.totals[key] == 64 * 64


@pytest.mark.parametrize("bits", [2, 8])
def test_parts_of_a_separable_convolution_in_flash(bits):
    """The depthwise part is too small for a table, or has too many bits."""
    layer = layers.SeparableConv2D(
        64,
        3,
        depthwise_constraint=kb.QuantProjection(bits),
        pointwise_constraint=kb.QuantProjection(2),
    )
    table = kb.summary(keras.Sequential([keras.Input((8, 8, 16)), layer]))
    (row,) = table.rows
    small, large = 9 * 16, 16 * 64
    assert row["weights"] == small + large
    assert row["int4_bytes"] == small // (2 if bits == 2 else 1) + large // 2
    assert row["table_bytes"] == small + large // 4 + 16 + 3 + 64


def test_stock_layer_with_a_projection():
    projection = kb.QuantProjection(2)
    layer = layers.Dense(3, kernel_constraint=projection)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.eye(5), np.ones((5, 3)), verbose=0)
    (row,) = kb.summary(model).rows
    kernel = np.array(layer.kernel)
    assert (row["weight_bits"], row["packed_bytes"]) == (2, 4)
    assert row["scale"][0] == pytest.approx(np.max(np.abs(kernel)), rel=1e-5)
    assert row["codes"][0] == np.mean(kernel == 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_and_scale(bits):
    layer = kb.QuantDense(16, bits=bits, per_channel=True)
    model = keras.Sequential([keras.Input((64,)), layer])
    (row,) = kb.summary(model).rows
    scale, codes = layer.kernel_scale_and_codes()
    assert row["scale"] == (np.min(scale), np.max(scale))
    values, counts = np.unique(codes, return_counts=True)
    expected = dict(zip(values, counts / codes.size, strict=True))
    assert {k: v for k, v in row["codes"].items() if v} == expected
    top = {1: 1, 2: 1, 4: 7, 8: 127}[bits]
    assert len(row["codes"]) == (2 if bits == 1 else 2 * top + 1)
    cell = str(kb.summary(model)).splitlines()[1].split()
    if bits <= 2:
        assert cell[-2] == "/".join(
            f"{100 * share:.0f}" for share in row["codes"].values()
        )
    else:
        assert len(cell[-1]) == 15


# Activations


def network_with_a_dead_channel():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            kb.QuantDense(3, bits=32, use_bias=False, name="dense"),
            kb.QuantReLU(2, alpha_initializer="ones", name="relu"),
            layers.Dense(2, activation="relu", name="float_relu"),
        ]
    )
    # Channel 0 is never above 0; channel 1 counts to 4; channel 2 does too.
    kernel = np.zeros((4, 3))
    kernel[0] = -1, 1, 1
    model.get_layer("dense").kernel.assign(kernel)
    model.get_layer("float_relu").kernel.assign(-np.ones((3, 2)))
    x = np.zeros((4, 4), "float32")
    x[:, 0] = 1, 2, 3, 4
    return model, x


def in_batches(x):
    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return x[2 * i : 2 * i + 2], np.zeros(2)

    return Dataset()


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: (x, np.zeros(len(x))),
        in_batches,
        lambda x: iter([x[:3], x[3:]]),
    ],
)
def test_dead_and_saturated_activations(form):
    model, x = network_with_a_dead_channel()
    table = kb.summary(model, form(x))
    relu, last = rows_of(table)["relu"], rows_of(table)["float_relu"]
    assert (relu["dead"], relu["channels"]) == (1, 3)
    # 4 is beyond the top level, 3, in two of three channels.
    assert relu["saturated"] == 2 / 12
    assert (last["dead"], last["saturated"]) == (2, 0.0)
    assert "1/3     16.7 %" in str(table)
    assert rows_of(kb.summary(model))["relu"]["dead"] is None


def test_only_some_batches_are_used():
    model, x = network_with_a_dead_channel()
    table = kb.summary(model, x, batches=1, batch_size=2)
    assert rows_of(table)["relu"]["saturated"] == 0


def test_saturation_at_both_ends_and_of_relu6():
    inputs = keras.Input((1,))
    signed = kb.QuantIdentity(3, alpha_initializer="ones", name="signed")
    outputs = [signed(inputs), layers.ReLU(6.0, name="relu6")(inputs)]
    x = np.array([[-9.0], [-4.0], [-3.0], [2.0], [3.0], [7.0]])
    rows = rows_of(kb.summary(keras.Model(inputs, outputs), x))
    assert rows["signed"]["saturated"] == 2 / 6  # beyond codes -4 and 3
    assert rows["relu6"]["saturated"] == 1 / 6


def test_a_relu_of_several_widths():
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((2,))
    to_three = layers.Dense(3, kernel_initializer="ones", use_bias=False)
    x = relu(to_three(inputs))
    to_five = layers.Dense(5, kernel_initializer="ones", use_bias=False)
    x = relu(to_five(x))
    model = keras.Model(inputs, [x, relu(inputs)])
    # Of the two inputs one is never above 0, and all that follows is.
    for data in (np.array([[3.0, -1.0]]), [np.array([[3.0, -1.0]])] * 2):
        row = rows_of(kb.summary(model, data))["relu"]
        assert (row["dead"], row["channels"]) == (1, 3 + 5 + 2)


@pytest.mark.parametrize("of_relu", [None, "channels_first"])
def test_channels_that_come_first(of_relu):
    """QuantReLU has no data format: that of the layer before tells."""
    x = np.ones((2, 3, 4, 5), "float32")
    x[:, 1] = -1
    first = "channels_first"
    model = keras.Sequential(
        [
            keras.Input((3, 4, 5)),
            layers.ZeroPadding2D(1, data_format=first),
            kb.QuantReLU(2, name="relu"),
            layers.BatchNormalization(axis=1),
            kb.QuantIdentity(name="identity"),
            layers.Flatten(data_format=first),
            layers.ReLU(name="flat"),
        ]
    )
    rows = rows_of(kb.summary(model, iter([x, x])))
    for name in ("relu", "identity"):
        assert (rows[name]["dead"], rows[name]["channels"]) == (1, 3)
    assert rows["flat"]["channels"] == 3 * 6 * 7


def test_layers_called_by_keyword_are_seen():
    inputs = keras.Input((4,))
    x = kb.QuantDense(3, bits=2, name="dense")(inputs=inputs)
    outputs = kb.QuantReLU(2, name="relu")(inputs=x)
    model = keras.Model(inputs, outputs)
    rows = rows_of(kb.summary(model, np.ones((2, 4))))
    assert rows["dense"]["macs"] == 12
    assert rows["relu"]["channels"] == 3


def test_masks_are_no_activations():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Masking(),
            kb.QuantReLU(2),
            layers.GlobalAveragePooling1D(),
            kb.QuantDense(5, bits=2, name="dense"),
        ]
    )
    assert kb.summary(model).totals["macs_by_bits"] == {"2W8A": 15}


# Models


@pytest.mark.parametrize("mode, bits", [("int8", 8), ("int4", 4)])
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_a_model_that_keras_quantized(mode, bits):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(3, name="last"),
        ]
    )
    model.quantize(mode)
    table = kb.summary(model, np.ones((2, 4)))
    rows = rows_of(table)
    assert rows["hidden"]["weights"] == 32 and rows["last"]["weights"] == 24
    assert {row["weight_bits"] for row in table.rows} == {bits}
    assert table.totals["packed_bytes"] == 56 * bits // 8
    assert table.totals["macs"] == 56
    # Biases and scales, in mode "int4" also zero points and 12 indices.
    expected = {"int8": 11 + 11, "int4": 11 + 11 + 11 + 12}
    assert table.totals["other_numbers"] == expected[mode]
    assert rows["hidden"]["channels"] == 8
    for layer in model.layers:
        assert not {"call", "quantized_call"} & set(vars(layer))


def test_layers_of_one_name_are_all_listed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = layers.Dense(4, name="dense")
            self.two = layers.Dense(2, name="dense")

        def call(self, x):
            return self.two(self.one(x))

    table = kb.summary(Own(), np.ones((2, 3)))
    assert [row["layer"] for row in table.rows] == ["dense", "dense_2"]
    assert table.totals["macs"] == 12 + 8


def test_several_inputs_as_a_dict():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = kb.QuantDense(4, bits=2, name="dense")(layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, [x, kb.QuantReLU(name="relu")(x)])
    data = {"a": np.ones((2, 3)), "b": np.ones((2, 2))}
    for table in (kb.summary(model), kb.summary(model, data)):
        assert table.totals["macs_by_bits"] == {"2W8A": 20}
    model = keras.Model([a, b], x)
    table = kb.summary(model, [data["a"], data["b"]])
    assert table.totals["macs"] == 20


def test_subclassed_model_needs_data():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = kb.QuantDense(3, bits=2, name="dense")

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match="`data` must be given"):
        kb.summary(model)
    assert kb.summary(model, np.ones((5, 4))).totals["macs"] == 12


def test_the_same_after_saving_and_loading(tmp_path):
    model, x = network_with_a_dead_channel()
    before = kb.summary(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert kb.summary(loaded, x).rows == before.rows


def test_the_model_is_left_as_it_was():
    model, x = network_with_a_dead_channel()
    before = model.predict(x, verbose=0)
    kb.summary(model, x)
    for layer in model.layers:
        assert "call" not in vars(layer)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((0, 4)), "`data` must hold at least one sample"),
        ([], "`data` must hold at least one sample"),
        (
            np.full((2, 4), np.inf),
            "must be finite.*8 values NaN or infinite in batch 0",
        ),
    ],
)
def test_data_that_says_nothing(data, message):
    model, _ = network_with_a_dead_channel()
    with pytest.raises(ValueError, match=message):
        kb.summary(model, data)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"model": "x"}, "`model` must be a keras.Model. Received: model='x'"),
        ({"batch_size": 0}, "`batch_size` must be an integer above 0"),
    ],
)
def test_arguments_are_checked(arguments, message):
    model, x = network_with_a_dead_channel()
    with pytest.raises(ValueError, match=message):
        kb.summary(**{"model": model, "data": x} | arguments)


# How it is shown


def test_the_table_fits_a_terminal():
    """ResNet-20 with data, and its totals are still exact below it."""
    model = models.resnet_cifar(20, branch_bits=8)
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3))
    table = kb.summary(model, x)
    lines = str(table).splitlines()
    assert max(map(len, lines)) <= 110
    (total,) = [line for line in lines if line.startswith("total")]
    assert total.split()[3:6] == ["268k", "134k", "40.6M"]
    flash = str(kb.summary(model, x, show_flash=True)).splitlines()
    assert max(map(len, flash)) <= 105
    for key in (
        "float32_bytes",
        "int8_bytes",
        "packed_bytes",
        "int4_bytes",
        "table_bytes",
    ):
        assert f"{table.totals[key]:,}" in "\n".join(table.notes)


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (36_864, "36.9k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (2_359_296, "2.36M"),
        (15_470_264_320, "15.5G"),
    ],
)
def test_large_numbers_are_short(number, text):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, name="a")])
    table = kb.summary(model)
    row = table.rows[0] | {"macs": number}
    assert text in type(table)([row], table.totals).cells[1]


def test_notebooks_get_html_of_the_same_cells():
    table = kb.summary(models.resnet_cifar(8))
    page = table._repr_html_()
    assert page.count("<tr>") == len(table.cells) == len(table.rows) + 2
    assert all(html.escape(cell) in page for cell in table.cells[1])
    assert all(note in page for note in table.notes)
    assert (
        "<script>"
        not in type(table)(
            [table.rows[0] | {"layer": "<script>"}], table.totals
        )._repr_html_()
    )


def test_pandas_gets_the_rows(monkeypatch):
    table = kb.summary(models.resnet_cifar(8))
    pandas = types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert table.to_pandas() == ("frame", table.rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.to_pandas()
