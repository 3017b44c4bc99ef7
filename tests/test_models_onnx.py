"""ONNX models in and out, beside ONNX Runtime."""

import warnings

import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn.errors import FileError, NetworkError
from tests.conftest import random_layer
from tests.models import assert_agrees

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

OPSETS = [7, 9, 11, 13, 18, 21]


def model_of(nodes, shape, constants=None, *, opset=18, output="y", dtype=np.float32, batch="samples"):
    """A model of operators, each (operator, inputs, outputs, attributes), from x to y."""
    constants = {} if constants is None else constants
    made = [
        helper.make_node(kind, given, out, name=f"n{k}", **extra) for k, (kind, given, out, extra) in enumerate(nodes)
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given = [helper.make_tensor_value_info("x", kind, [batch, *shape])]
    if opset < 9:  # then constants are inputs, too
        for name, array in constants.items():
            element = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
            given.append(helper.make_tensor_value_info(name, element, np.shape(array)))
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in output.split(",")]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(made, "graph", given, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset > 8 else 3)


def run(model, rows, output=None):
    content = model if isinstance(model, str) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(output and [output], {session.get_inputs()[0].name: rows})[0]


def check(model, shape, *, samples=5, dtype=np.float32, output=None, **options):
    """Translate a model, and compare; returns the network."""
    network = tg.from_onnx(model, output=output, **options)
    rows = np.random.default_rng(0).standard_normal((samples, *shape)).astype(dtype)
    assert_agrees(network, rows, run(model, rows, output))
    return network


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


# Operators.


@pytest.mark.parametrize("options", [{}, {"transB": 1}, {"alpha": 0.5, "beta": -2.0, "transB": 1}], ids=str)
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), None], ids=str)
def test_gemm(options, bias):
    w = numbers(5, 4) if options.get("transB") else numbers(4, 5)
    constants = {"w": w} | ({} if bias is None else {"b": numbers(*bias)})
    check(model_of([("Gemm", ["x", *constants], ["y"], options)], (4,), constants), (4,))


def test_gemm_may_add_what_another_layer_gave():
    nodes = [("Relu", ["x"], ["h"], {}), ("Gemm", ["x", "w", "h"], ["y"], {"beta": 0.5})]
    network = check(model_of(nodes, (4,), {"w": numbers(4, 4)}), (4,))
    assert [network.sources(k) for k in range(2)] == [(-1,), (-1, 0)]


@pytest.mark.parametrize("opset", OPSETS)
def test_a_chain_in_every_version(opset):
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("Add", ["a", "b"], ["c"], {}),
        ("Relu", ["c"], ["d"], {}),
        ("Dropout", ["d"], ["e"], {}),
        ("Gemm", ["e", "v", "u"], ["f"], {}),
        ("Softmax", ["f"], ["y"], {"axis": 1}),
    ]
    constants = {"w": numbers(6, 5), "b": numbers(5), "v": numbers(5, 4), "u": numbers(4)}
    network = check(model_of(nodes, (6,), constants, opset=opset), (6,))
    assert [layer.activation for layer in network] == ["relu", "softmax"]


ACTIVATIONS = {
    "relu": [("Relu", ["x"], ["y"], {})],
    "leaky_relu": [("LeakyRelu", ["x"], ["y"], {"alpha": 0.3})],
    "leaky_relu of 0.01": [("LeakyRelu", ["x"], ["y"], {})],
    "prelu": [("PRelu", ["x", "tenth"], ["y"], {})],
    "sigmoid": [("Sigmoid", ["x"], ["y"], {})],
    "hard sigmoid": [("HardSigmoid", ["x"], ["y"], {"alpha": 0.3})],
    "tanh": [("Tanh", ["x"], ["y"], {})],
    "softmax": [("Softmax", ["x"], ["y"], {})],
    "identity": [("Identity", ["x"], ["y"], {})],
    "negative": [("Neg", ["x"], ["y"], {})],
    "clip": [("Clip", ["x", "zero", "half"], ["y"], {})],
    "clip below": [("Clip", ["x", "minus", ""], ["y"], {})],
    "clip above": [("Clip", ["x", "", "half"], ["y"], {})],
    "clip both": [("Clip", ["x", "minus", "half"], ["y"], {})],
    "no clip": [("Clip", ["x"], ["y"], {})],
    "relu, then clip": [("Relu", ["x"], ["h"], {}), ("Clip", ["h", "minus", "half"], ["y"], {})],
    "tanh, then clip": [("Tanh", ["x"], ["h"], {}), ("Clip", ["h", "", "half"], ["y"], {})],
    "sigmoid, then relu": [("Sigmoid", ["x"], ["h"], {}), ("Relu", ["h"], ["y"], {})],
    "relu, clip, clip": [
        ("Relu", ["x"], ["h"], {}),
        ("Clip", ["h", "zero", "half"], ["i"], {}),
        ("Clip", ["i", "", "tenth"], ["y"], {}),
    ],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    constants = {
        name: np.float32(value) for name, value in {"zero": 0, "half": 0.5, "minus": -0.75, "tenth": 0.1}.items()
    }
    layers = len(check(model_of(ACTIVATIONS[name], (6,), constants), (6,)))
    assert layers == (2 if name in ("clip below", "clip both") else 1)  # what was shifted is shifted back


def test_a_clip_of_an_activation_that_others_read_leaves_it_as_it_is():
    nodes = [
        ("Relu", ["x"], ["h"], {}),
        ("Clip", ["h", "", "half"], ["c"], {}),
        ("Concat", ["h", "c"], ["y"], {"axis": 1}),
    ]
    network = check(model_of(nodes, (4,), {"half": np.float32(0.5)}), (4,))
    assert sorted(layer.cap or 0 for layer in network) == [0, 0, 0.5]


def test_old_clips_have_their_bounds_as_attributes():
    check(model_of([("Clip", ["x"], ["y"], {"min": -0.5, "max": 0.25})], (4,), opset=9), (4,))
    check(model_of([("Clip", ["x"], ["y"], {"min": 0.0, "max": 3.4028234663852886e38})], (4,), opset=9), (4,))


ARITHMETIC = {
    "Add": ["x", "c"],
    "Sub": ["x", "c"],
    "Sub from": ["c", "x"],
    "Mul": ["c", "x"],
    "Div": ["x", "c"],
    "Sum": ["c", "x", "x", "c"],
}


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 1), (1, 2, 3), (1, 1, 1)], ids=str)
def test_arithmetic_with_constants(name, shape):
    nodes = [(name.split()[0], ARITHMETIC[name], ["y"], {})]
    check(model_of(nodes, (2, 3), {"c": numbers(*shape)}), (2, 3))


def test_a_constant_may_make_a_sample_larger():
    check(model_of([("Add", ["x", "c"], ["y"], {})], (1, 3), {"c": numbers(4, 1)}), (1, 3))


CONVOLUTIONS = {
    "plain": ((2, 6, 7), (3, 2, 3, 3), {}),
    "all options": (
        (4, 9, 8),
        (6, 2, 3, 2),
        {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]},
    ),
    "depthwise": ((3, 5, 5), (3, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "same upper": ((2, 6, 7), (3, 2, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((2, 6, 7), (3, 2, 2, 4), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "valid": ((2, 6, 7), (3, 2, 2, 4), {"auto_pad": "VALID", "kernel_shape": [2, 4]}),
    "one dimension": ((2, 9), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
    "three dimensions": ((1, 4, 5, 3), (2, 1, 2, 3, 2), {"strides": [1, 2, 1]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(name, bias):
    shape, weights, options = CONVOLUTIONS[name]
    constants = {"w": numbers(*weights)} | ({"b": numbers(weights[0])} if bias else {})
    assert len(check(model_of([("Conv", ["x", *constants], ["y"], options)], shape, constants), shape)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_shape": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "dilations": [2, 3]},
    ],
    ids=str,
)
def test_averages(options):
    check(model_of([("AveragePool", ["x"], ["y"], options)], (3, 7, 6), opset=19), (3, 7, 6))


def test_averages_over_everything():
    check(model_of([("GlobalAveragePool", ["x"], ["y"], {})], (3, 4, 5)), (3, 4, 5))
    check(model_of([("ReduceMean", ["x", "axes"], ["y"], {"keepdims": 0})], (3, 4, 5), {"axes": [-1, 2]}), (3, 4, 5))
    check(model_of([("ReduceMean", ["x"], ["y"], {"axes": [2]})], (3, 4), opset=13), (3, 4))


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_batch_normalization(shape):
    constants = {name: abs(numbers(3)) + 0.5 for name in "smv"} | {"b": numbers(3)}
    nodes = [("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], {"epsilon": 0.01})]
    assert len(check(model_of(nodes, shape, constants), shape)) == 1


SHAPES = {
    "flatten": [("Flatten", ["x"], ["y"], {})],
    "flatten from behind": [("Flatten", ["x"], ["y"], {"axis": -3})],
    "reshape": [("Reshape", ["x", "to"], ["y"], {})],
    "reshape with zeros": [("Reshape", ["x", "zeros"], ["y"], {})],
    "transpose": [("Transpose", ["x"], ["y"], {"perm": [0, 3, 1, 2]})],
    "unsqueeze": [("Unsqueeze", ["x", "axes"], ["y"], {})],
    "squeeze": [("Unsqueeze", ["x", "axes"], ["h"], {}), ("Squeeze", ["h", "axes"], ["y"], {})],
    "pad": [("Pad", ["x", "pads"], ["y"], {})],
    "pad some axes": [("Pad", ["x", "few", "", "axes"], ["y"], {})],
    "cast": [("Cast", ["x"], ["h"], {"to": TensorProto.DOUBLE}), ("Cast", ["h"], ["y"], {"to": TensorProto.FLOAT})],
    "concatenate": [("Relu", ["x"], ["h"], {}), ("Concat", ["x", "h", "x"], ["y"], {"axis": 1})],
    "concatenate inside": [("Relu", ["x"], ["h"], {}), ("Concat", ["h", "x"], ["y"], {"axis": -1})],
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    constants = {
        "to": [-1, 6, 4],
        "zeros": [0, 0, -1],
        "axes": [1, -1],
        "pads": [0, 1, 0, 2, 0, 0, -1, 1],
        "few": [1, 2, 0, -1],
    }
    arrays = {name: np.array(value, np.int64) for name, value in constants.items()}
    check(model_of(SHAPES[name], (2, 3, 4), arrays), (2, 3, 4))


def test_shapes_that_are_computed_from_the_number_of_samples():
    nodes = [
        ("Shape", ["x"], ["shape"], {}),
        ("Gather", ["shape", "first"], ["samples"], {}),
        ("Unsqueeze", ["samples", "axis"], ["one"], {}),
        ("Constant", [], ["rest"], {"value": numpy_helper.from_array(np.array([-1]))}),
        ("Concat", ["one", "rest"], ["to"], {"axis": 0}),
        ("Relu", ["x"], ["h"], {}),
        ("Reshape", ["h", "to"], ["y"], {}),
    ]
    check(model_of(nodes, (2, 3), {"first": np.int64(0), "axis": np.array([0])}), (2, 3))


def test_a_model_for_one_sample_is_taken_for_any_number():
    nodes = [("Reshape", ["x", "to"], ["h"], {}), ("Relu", ["h"], ["y"], {})]
    model = model_of(nodes, (2, 3), {"to": np.array([1, 6])}, batch=1)
    check(model, (2, 3), samples=1)
    assert tg.from_onnx(model).inputs == 6


def test_products_over_the_last_axis():
    network = check(model_of([("MatMul", ["x", "w"], ["y"], {})], (3, 4), {"w": numbers(4, 2)}), (3, 4))
    assert network.nnz == 3 * 8


def test_weights_may_be_computed_from_constants():
    nodes = [
        ("Mul", ["w", "mask"], ["pruned"], {}),
        ("Transpose", ["pruned"], ["t"], {}),
        ("MatMul", ["x", "t"], ["y"], {}),
    ]
    mask = (numbers(5, 4) > 0).astype(np.float32)
    network = check(model_of(nodes, (4,), {"w": numbers(5, 4), "mask": mask}), (4,))
    assert network.nnz == mask.sum()


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_of_numbers(dtype):
    w = numbers(4, 5, dtype=dtype)
    model = model_of([("MatMul", ["x", "w"], ["h"], {}), ("Relu", ["h"], ["y"], {})], (4,), {"w": w}, dtype=dtype)
    network = tg.from_onnx(model)
    np.testing.assert_array_equal(network[0].weights.toarray(), w.astype(np.float32))
    if dtype == np.float64:
        check(model, (4,), dtype=dtype)


def test_sparse_initializers():
    w = numbers(4, 5)
    model = model_of([("MatMul", ["x", "w"], ["y"], {})], (4,))
    for indices in (np.array([1, 7, 19]), np.array([[0, 1], [1, 2], [3, 4]])):
        values = numpy_helper.from_array(w.ravel()[[1, 7, 19]], "w")
        del model.graph.sparse_initializer[:]
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "w_indices"), [4, 5])
        )
        assert check(model, (4,)).nnz == 3


def test_functions_of_the_model_are_opened():
    nodes = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Both", ["a"], ["c"], nodes, opsets[:1])
    model = model_of([("Both", ["x"], ["y"], {"domain": "own"})], (4,))
    model.functions.append(function)
    model.opset_import.append(opsets[1])
    check(model, (4,))


# Models of other libraries.


@pytest.mark.parametrize("exporter", ["torch.onnx", pytest.param("onnxscript", marks=pytest.mark.slow)])
def test_a_residual_network_of_torch(exporter, tmp_path, capfd):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip(exporter, reason=f"{exporter} is not installed")
    from tests.test_models_torch import Block, lively

    torch.manual_seed(0)
    module = lively(
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, stride=2), Block(2), torch.nn.AvgPool2d(2), torch.nn.Flatten())
    )
    rows = torch.randn(3, 1, 9, 9)
    path = tmp_path / "model.onnx"
    batch = {"dynamo": True} if exporter == "onnxscript" else {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (rows,), path, input_names=["x"], **batch)
    network = tg.from_onnx(path)
    assert_agrees(network, rows.numpy(), module(rows).detach().numpy())
    ours = tg.from_torch(module, input_shape=(1, 9, 9))
    assert (len(network), network.nnz) == (len(ours), ours.nnz)


@pytest.mark.parametrize(("classes", "before"), [(2, "probabilities"), (3, "out_activations_result")])
def test_a_classifier_of_scikit_learn(classes, before):
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 8)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        classifier = MLPClassifier((6, 5), max_iter=20, random_state=0).fit(rows, np.arange(60) % classes)
        model = skl2onnx.to_onnx(classifier, rows[:1])
    with pytest.raises(NetworkError, match=r"has 2 outputs \(output_label, output_probability\): say which by output="):
        tg.from_onnx(model)
    with pytest.raises(NetworkError, match=r"cannot translate ai.onnx.ml.ZipMap \(1: ZipMap\)$"):
        tg.from_onnx(model, output="output_probability")
    with pytest.raises(NetworkError, match=r"cannot translate ArgMax \(1: "):
        tg.from_onnx(model, output="output_label")
    network = tg.from_onnx(model, output=before)
    assert_agrees(network, rows, classifier.predict_proba(rows))
    plain = skl2onnx.to_onnx(classifier, rows[:1], options={"zipmap": False})
    assert tg.from_onnx(plain, output="probabilities").digest == network.digest


def test_a_scaler_before_a_model_of_scikit_learn():
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((60, 8)) * 5 + 3).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        pipeline = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(6,), max_iter=5)).fit(
            rows, rows[:, 0]
        )
    network = tg.from_onnx(skl2onnx.to_onnx(pipeline, rows[:1]))
    assert len(network) == 2
    assert_agrees(network, rows, pipeline.predict(rows))


def test_a_model_of_keras(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", reason="keras is not installed")
        layers = keras.layers
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                layers.Conv2D(3, 3, activation="relu", padding="same"),
                layers.AveragePooling2D(2),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(5, activation="tanh"),
                layers.Dropout(0.2),
                layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(loss="mse")
        rows = np.random.default_rng(0).random((32, 8, 8, 1), np.float32)
        model.fit(rows, rows.reshape(32, 64)[:, :3], verbose=0)
        model.export(tmp_path / "keras.onnx", format="onnx", verbose=False)
        expected = model.predict(rows, verbose=0)
    network = tg.from_onnx(tmp_path / "keras.onnx")
    assert len(network) == 4
    assert_agrees(network, rows, expected)


# Files.


def test_a_file_may_keep_its_data_in_another(tmp_path):
    model = model_of([("MatMul", ["x", "w"], ["y"], {})], (40,), {"w": numbers(40, 50)})
    expected = tg.from_onnx(model).digest
    path = str(tmp_path / "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert tg.read_network(path, neurons=40, layers=1).digest == tg.from_onnx(path).digest == expected
    (tmp_path / "model.data").unlink()
    with pytest.raises(FileError, match=f"cannot read {path} as an ONNX file"):
        tg.from_onnx(path)


def test_files_that_are_damaged(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileError, match="cannot read .*model.onnx as an ONNX file"):
        tg.from_onnx(path)
    path.write_bytes(b"something else")
    with pytest.raises(FileError, match="cannot read .*model.onnx as an ONNX file"):
        tg.read_network(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="cannot read .*model.onnx as an ONNX file: it holds no graph"):
        tg.read_network(path)
    model = model_of([("MatMul", ["x", "w"], ["y"], {})], (4,), {"w": numbers(4, 5)})
    path.write_bytes(model.SerializeToString().replace(b"n0", b"\xff\xfe").replace(b"MatMul", b"MatMal"))
    with pytest.raises((FileError, NetworkError), match="model.onnx"):  # a name that is no text
        tg.read_network(path)
    model.graph.initializer[0].raw_data = b"few"
    onnx.save(model, path)
    with pytest.raises(NetworkError, match="model.onnx: cannot read the tensor 'w'"):
        tg.read_network(path)


def test_what_a_file_says_cannot_be_given(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model_of([("Relu", ["x"], ["y"], {})], (4,)), path)
    for name, value in (("bias", 1), ("activation", "tanh"), ("cap", 3)):
        with pytest.raises(NetworkError, match=f"model.onnx holds its own {name}, so {name}={value} cannot be given"):
            tg.read_network(path, **{name: value})
    with pytest.raises(FileError, match="model.onnx has 4 neurons, expected 5"):
        tg.read_network(path, neurons=5)


# What cannot be.


def refused(nodes, shape=(4,), constants=None, *, match, **options):
    with pytest.raises(NetworkError, match=match):
        tg.from_onnx(model_of(nodes, shape, constants, **options))


def test_all_that_cannot_be_is_named_at_once():
    nodes = [
        ("Gelu", ["x"], ["a"], {}),
        ("MatMul", ["a", "w"], ["b"], {}),
        ("Gelu", ["b"], ["c"], {}),
        ("QuantizeLinear", ["c", "s"], ["q"], {}),
        ("DequantizeLinear", ["q", "s"], ["d"], {}),
        ("Special", ["d"], ["e"], {"domain": "com.example"}),
        ("Clip", ["x", "s", "s"], ["f"], {}),
        ("Add", ["e", "f"], ["y"], {}),
    ]
    names = (
        r"^graph: cannot translate Gelu \(2: n0, n2\); QuantizeLinear \(1: n3\); DequantizeLinear \(1: n4\); "
        r"com.example.Special \(1: n5\); Clip with the bounds 1 and 1 \(1: n6\)$"
    )
    refused(nodes, (4,), {"w": numbers(4, 4), "s": np.float32(1)}, match=names, opset=20)


def test_of_many_operators_some_are_named():
    nodes = [("Exp", ["x" if k == 0 else f"v{k}"], [f"v{k + 1}"], {}) for k in range(20)]
    refused([*nodes, ("Relu", ["v20"], ["y"], {})], match=r"Exp \(20: n0, n1, n2, n3, n4, n5, n6, n7, \.\.\.\)")


COUNTED = [("Shape", ["x"], ["s0"], {}), ("Gather", ["s0", "axis"], ["n"], {})]
UNSUPPORTED = {
    "two values": ([("Mul", ["x", "x"], ["y"], {})], "Mul of two values that both depend on the sample"),
    "weights that depend": ([("MatMul", ["w", "x"], ["y"], {})], "MatMul of a constant"),
    "no weights": ([("MatMul", ["x", "x"], ["y"], {})], "MatMul with weights that depends on the sample"),
    "by a value": ([("Div", ["w", "x"], ["y"], {})], "Div by anything else than constants"),
    "transposed input": ([("Gemm", ["x", "w"], ["y"], {"transA": 1})], "Gemm with transA"),
    "misfit": ([("MatMul", ["x", "v"], ["y"], {})], r"MatMul of values of shape \(4,\) by weights of shape \(3, 2\)"),
    "constants of samples": (
        [("Add", ["x", "w"], ["y"], {})],
        r"samples of shape \(4,\) and constants of shape \(4, 4\)",
    ),
    "transposed samples": ([("Transpose", ["x"], ["y"], {})], "Transpose to the axes"),
    "all values": ([("ReduceMean", ["x"], ["y"], {})], "ReduceMean over all axes"),
    "flat": ([("Flatten", ["x"], ["y"], {"axis": 0})], "Flatten at axis 0, expected 1"),
    "to integers": (
        [("Cast", ["x"], ["y"], {"to": TensorProto.INT64})],
        "Cast to type 7, expected a floating-point one",
    ),
    "steep": ([("LeakyRelu", ["x"], ["y"], {"alpha": 2.0})], "LeakyRelu with the slope 2"),
    "slopes": ([("PRelu", ["x", "row"], ["y"], {})], "PRelu with 4 different slopes"),
    "low cap": ([("Clip", ["x", "", "minus"], ["y"], {})], "Clip with the upper bound -1, and no lower one"),
    "softmax inside": (
        [("Softmax", ["x"], ["h"], {}), ("Add", ["h", "x"], ["y"], {})],
        "Softmax n0: softmax is read by",
    ),
    "another shape": (
        [("Reshape", ["x", "eight"], ["y"], {})],
        r"samples of shape \(4,\) to \(-1, 8\), expected samples x 4",
    ),
    "padded samples": ([("Pad", ["x", "pads"], ["y"], {})], "Pad of the axis of the samples"),
    "padded otherwise": ([("Pad", ["x", "pads"], ["y"], {"mode": "edge"})], "Pad with anything else than zeros"),
    "concatenated samples": ([("Concat", ["x", "x"], ["y"], {"axis": 0})], "Concat along axis 0"),
    "concatenated constants": ([("Concat", ["x", "w"], ["y"], {"axis": 1})], "Concat with a constant"),
    "squeezed": ([("Squeeze", ["x"], ["y"], {})], "Squeeze without axes"),
    "unsqueezed": ([("Unsqueeze", ["x", "axis"], ["y"], {})], "Unsqueeze before the axis of the samples"),
    "random": (
        [("RandomNormal", [], ["r"], {"shape": [4]}), ("Add", ["x", "r"], ["y"], {})],
        "RandomNormal of random numbers",
    ),
    "broken constants": ([("MatMul", ["w", "v"], ["r"], {}), ("Add", ["x", "r"], ["y"], {})], "MatMul of constants: "),
    "order": (
        [("Add", ["x", "later"], ["y"], {}), ("Relu", ["x"], ["later"], {})],
        "reads 'later' before anything has made it",
    ),
    "constant output": ([("Relu", ["w"], ["y"], {})], "its output 'y' does not depend on its input"),
    "training": ([("Dropout", ["x", "", "yes"], ["y"], {})], "Dropout in training mode"),
    "statistics": ([("BatchNormalization", ["x", *["row"] * 4], ["y"], {"training_mode": 1})], "in training mode"),
    "samples meet values": (
        [("Unsqueeze", ["x", "one"], ["h"], {}), ("Add", ["x", "h"], ["y"], {})],
        r"Add of samples of shape \(4,\) and samples of shape \(1, 4\)",
    ),
    "by the number of samples": (
        [*COUNTED, ("Cast", ["n"], ["f"], {"to": TensorProto.FLOAT}), ("Div", ["x", "f"], ["y"], {})],
        "Cast of the number of samples",
    ),
    "half of the samples": (
        [*COUNTED, ("Div", ["n", "two"], ["h"], {}), ("Reshape", ["x", "h"], ["y"], {})],
        "Div of the number of samples",
    ),
    "samples last": (
        [*COUNTED, ("Concat", ["two", "n"], ["s"], {"axis": 0}), ("Reshape", ["x", "s"], ["y"], {})],
        r"Reshape of samples of shape \(4,\) to \(2, -2147483647\)",
    ),
    "few statistics": ([("BatchNormalization", ["x", *["three"] * 4], ["y"], {})], "than one for each of 4 channels"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_is_refused(name):
    nodes, message = UNSUPPORTED[name]
    constants = {
        "w": numbers(4, 4),
        "v": numbers(3, 2),
        "row": np.arange(4, dtype=np.float32),
        "three": numbers(3),
        "minus": np.float32(-1),
        "eight": np.array([-1, 8]),
        "pads": np.array([1, 0, 0, 0]),
        "axis": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "yes": np.array(True),
    }
    refused(nodes, (4,), constants, match=message)


def test_models_of_another_shape_are_refused():
    relu = [("Relu", ["x"], ["y"], {})]
    with pytest.raises(NetworkError, match="has opset 6, expected at least 7"):
        tg.from_onnx(model_of(relu, (4,), opset=6))
    with pytest.raises(NetworkError, match=r"has 2 outputs \(y, x2\): say which by output="):
        tg.from_onnx(model_of([*relu, ("Tanh", ["x"], ["x2"], {})], (4,), output="y,x2"))
    with pytest.raises(NetworkError, match="has no value 'z'; its outputs are y"):
        tg.from_onnx(model_of(relu, (4,)), output="z")
    two = model_of(relu, (4,))
    two.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 3]))
    with pytest.raises(NetworkError, match=r"has 2 inputs \(x, other\), expected 1"):
        tg.from_onnx(two)
    for wrong in (3, None, object()):
        with pytest.raises(NetworkError, match="expected a path or an onnx.ModelProto"):
            tg.from_onnx(wrong)


def test_the_shape_of_a_sample_must_be_known():
    model = model_of([("Flatten", ["x"], ["h"], {}), ("Relu", ["h"], ["y"], {})], (2, "width"))
    with pytest.raises(NetworkError, match=r"a sample of input 'x' has the shape \(2, width\): give input_shape"):
        tg.from_onnx(model)
    assert check(model, (2, 3), input_shape=(2, 3)).inputs == 6
    for wrong in ((3, 3), (2,), (2, 3, 1)):
        with pytest.raises(NetworkError, match=r"has the shape \(2, None\), but .* is given"):
            tg.from_onnx(model, input_shape=wrong)


def test_weights_that_are_no_numbers_are_refused_by_the_name_of_their_operator():
    w = numbers(4, 5)
    w[2, 3] = np.inf
    with pytest.raises(NetworkError, match=r"graph: cannot translate MatMul with a weight of inf, .* \(1: n0\)"):
        tg.from_onnx(model_of([("MatMul", ["x", "w"], ["h"], {}), ("Relu", ["h"], ["y"], {})], (4,), {"w": w}))


# Out.


CHAINS = {
    "one": [{}],
    "relu": [{}, {"cap": 2.0}, {"activation": "identity"}],
    "all": [
        {"activation": "leaky_relu", "negative_slope": 0.25},
        {"activation": "sigmoid", "cap": 0.75},
        {"activation": "tanh"},
        {"activation": "identity", "cap": 1.5},
        {"activation": "leaky_relu", "negative_slope": 0.125, "cap": 0.5},
        {"activation": "softmax"},
    ],
    "softmax with a cap": [{}, {"activation": "softmax", "cap": 0.25}],
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_written_gives_the_same(tmp_path, rng, name):
    network = tg.Network([random_layer(rng, 8, 8, **options) for options in CHAINS[name]])
    path = tmp_path / "network.onnx"
    tg.write_onnx(network, path)
    onnx.checker.check_model(str(path), full_check=True)
    rows = rng.standard_normal((20, 8)).astype(np.float32)
    assert_agrees(network, rows, run(str(path), rows))
    assert tg.read_network(path).digest == network.digest


def test_graphs_are_written_too(tmp_path, rng):
    sizes = [(6, 8, (-1,)), (14, 5, (0, -1)), (10, 8, (1, 1)), (16, 8, (2, 0))]
    layers = [random_layer(rng, inputs, outputs, cap=1.0) for inputs, outputs, _ in sizes]
    network = tg.Network(layers, [read for *_, read in sizes])
    path = tmp_path / "network.onnx"
    tg.write_onnx(network, path)
    onnx.checker.check_model(str(path), full_check=True)
    rows = rng.standard_normal((20, 6)).astype(np.float32)
    assert_agrees(network, rows, run(str(path), rows))
    assert_agrees(tg.read_network(path), rows, run(str(path), rows))


@pytest.mark.parametrize("seed", range(12))
def test_any_wiring_comes_back(seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 7, rng.integers(2, 8)).tolist()  # the input's first
    sources = [
        tuple(rng.choice([-1, *range(k)] if k else [-1], rng.integers(1, 4)).tolist()) for k in range(len(widths) - 1)
    ]
    unread = set(range(len(sources) - 1)) - {source for read in sources for source in read}
    sources[-1] += tuple(unread)
    ends = ["relu", "identity", "leaky_relu", "sigmoid", "tanh"]
    layers = [
        random_layer(
            *(rng, sum(widths[source + 1] for source in read), widths[k + 1]),
            density=0.6,
            activation=str(rng.choice(ends)),
            cap=rng.choice([None, 0.5, 2.0]),
        )
        for k, read in enumerate(sources)
    ]
    model = tg.to_onnx(tg.Network(layers, sources))
    onnx.checker.check_model(model, full_check=True)
    rows = rng.standard_normal((9, widths[0])).astype(np.float32)
    for network in (tg.Network(layers, sources), tg.from_onnx(model)):
        assert_agrees(network, rows, run(model, rows))


def test_a_network_that_no_onnx_file_can_hold_is_not_begun(tmp_path):
    identity = tg.Layer(scipy.sparse.eye_array(2**15, format="csc"))
    with pytest.raises(NetworkError, match=r"has 8,589,934,592 bytes of dense weights, but an ONNX file holds"):
        tg.write_onnx(tg.Network([identity, identity]), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []
