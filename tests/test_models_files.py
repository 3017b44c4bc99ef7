"""State dicts, npz files and files of biases: networks in the files of others, and back."""

import json
import struct
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner
from safetensors.numpy import save_file

import taskgraph_dnn as tg
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import FileError, MissingDependencyError, NetworkError
from taskgraph_dnn.models.state_dict import array
from tests.conftest import random_layer
from tests.models import assert_agrees


def chain(rng, *ends):
    return tg.Network([random_layer(rng, 8, 8, **end) for end in ends])


@pytest.fixture
def graph(rng):
    sizes = [(6, 8, (-1,)), (14, 5, (0, -1)), (10, 8, (1, 1))]
    return tg.Network(
        [random_layer(rng, inputs, outputs, cap=1.0) for inputs, outputs, _ in sizes], [s for *_, s in sizes]
    )


ENDS = [
    {"activation": "leaky_relu", "negative_slope": 0.3},
    {"cap": 0.7},
    {"activation": "tanh"},
    {"activation": "softmax"},
]


# State dicts.


def tensors(rng, *widths, name="{}", dtype=np.float32):
    """Weights and biases of layers of these widths, by name."""
    made = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        made[f"{name.format(k)}.weight"] = rng.standard_normal((outputs, inputs)).astype(dtype)
        made[f"{name.format(k)}.bias"] = rng.standard_normal(outputs).astype(dtype)
    return made


def computed(made, rows, names):
    """What layers of these names make of rows, with relu between."""
    for k, name in enumerate(names):
        rows = rows @ made[f"{name}.weight"].T.astype(np.float64) + made.get(f"{name}.bias", 0)
        rows = np.maximum(rows, 0) if k + 1 < len(names) else rows
    return rows


def test_layers_are_in_the_order_of_their_numbers(tmp_path, rng):
    """Files have them sorted as texts: 10 before 2."""
    made = tensors(rng, *[4] * 13, name="net.{}.linear")
    save_file(made, tmp_path / "net.safetensors")
    rows = rng.standard_normal((5, 4)).astype(np.float32)
    expected = computed(made, rows, [f"net.{k}.linear" for k in range(12)])
    network = tg.read_network(tmp_path / "net.safetensors", neurons=4)
    assert_agrees(network, rows, expected)
    assert tg.from_torch(dict(sorted(made.items()))).digest == network.digest
    assert tg.read_network(tmp_path / "net.safetensors", layers=3).digest == network.head(3).digest


def test_layers_of_other_names_are_in_the_only_order_in_which_they_fit(rng):
    made = tensors(rng, 4, 7, 3, 9)
    named = {
        name.replace("0", "stem").replace("1", "head").replace("2", "body"): made[name] for name in sorted(made)[::-1]
    }
    assert tg.from_torch(named).digest == tg.from_torch(made).digest


def test_an_order_that_is_not_certain_is_refused(rng):
    square, circle = tensors(rng, 4, 4, 4), tensors(rng, 4, 5, 4)
    for made in (square, circle):
        named = {name.replace("0", "first").replace("1", "second"): array for name, array in made.items()}
        with pytest.raises(NetworkError, match="first, second may be in more than one order; names that differ in num"):
            tg.from_torch(named)
    apart = tensors(rng, 4, 5) | {"other.weight": np.ones((3, 7))}
    with pytest.raises(NetworkError, match="there is no order in which 0, other feed one another"):
        tg.from_torch(apart)
    with pytest.raises(NetworkError, match="state dict: 1 has 7 inputs, but 0 has 5 outputs"):
        tg.from_torch(tensors(rng, 4, 5) | {"1.weight": np.ones((3, 7))})


def test_activations_can_be_said(tmp_path, rng):
    made = tensors(rng, 3, 4, 5, 2)
    network = tg.from_torch(made)
    assert [layer.activation for layer in network] == ["relu", "relu", "identity"]
    network = tg.from_torch(made, activation="tanh", output_activation="softmax")
    assert [layer.activation for layer in network] == ["tanh", "tanh", "softmax"]
    save_file(made, tmp_path / "net.safetensors")
    network = tg.read_network(tmp_path / "net.safetensors", activation="sigmoid")
    assert [layer.activation for layer in network] == ["sigmoid", "sigmoid", "identity"]
    assert tg.read_state_dict(tmp_path / "net.safetensors", output_activation="relu")[-1].activation == "relu"
    with pytest.raises(NetworkError, match="holds its own bias, so bias=1 cannot be given"):
        tg.read_network(tmp_path / "net.safetensors", activation="tanh", bias=1)


def test_masks_are_applied(tmp_path, rng):
    mask = rng.random((5, 3)) < 0.5
    weights = rng.standard_normal((5, 3)).astype(np.float32)
    expected = tg.Layer((weights * mask).T, activation="identity").digest
    for made in (
        {"weight_orig": weights, "weight_mask": mask},
        {"a.weight": weights, "a.weight_mask": mask.astype(np.float32)},
    ):
        save_file(made, tmp_path / "net.safetensors")
        assert tg.read_network(tmp_path / "net.safetensors")[0].digest == expected


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "bool"])
def test_numbers_of_every_type(tmp_path, rng, dtype):
    weights = (rng.standard_normal((5, 3)) * 4).astype("float32" if dtype == "bfloat16" else dtype)
    path = tmp_path / "net.safetensors"
    if dtype == "bfloat16":
        weights = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
        content = (weights.view(np.uint32) >> 16).astype("<u2").tobytes()
        header = json.dumps({"0.weight": {"dtype": "BF16", "shape": [5, 3], "data_offsets": [0, 30]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    else:
        save_file({"0.weight": weights}, path)
    np.testing.assert_array_equal(tg.read_network(path)[0].weights.toarray(), weights.T.astype(np.float32))


def test_numbers_of_a_type_that_numpy_has_not(tmp_path):
    header = json.dumps({"0.weight": {"dtype": "F8_E4M3", "shape": [1, 1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(FileError, match="tensor 0.weight is F8_E4M3, expected one of F64"):
        tg.read_network(tmp_path / "net.safetensors")


WRONG = {
    "other tensors": (
        {"conv.weight": np.ones((2, 1, 3, 3)), "n": np.ones(2)},
        r"conv.weight of shape \(2, 1, 3, 3\), n of",
    ),
    "normalisation": (
        {"0.weight": np.ones((2, 2)), "1.weight": np.ones(2)},
        r"holds 1.weight of shape \(2,\), expected",
    ),
    "nothing": ({}, "holds no tensors, expected NAME.weight"),
    "no mask": ({"0.weight_orig": np.ones((2, 2))}, "0: weight_orig has no weight_mask"),
    "another mask": (
        {"0.weight": np.ones((2, 2)), "0.weight_mask": np.ones((2, 1))},
        r"weight_mask has shape \(2, 1\), but",
    ),
    "no weight": ({"0.bias": np.ones(2)}, "0 has bias, but no weight"),
    "another bias": (
        {"0.weight": np.ones((2, 2)), "0.bias": np.ones(3)},
        r"0: bias has shape \(3,\), expected one number",
    ),
    "no numbers": (
        {"0.weight": np.full((2, 2), np.nan)},
        "the state dict: 0: weight of input 0, output 0 is nan, expected a finite float32",
    ),
    "complex numbers": ({"0.weight": np.ones((2, 2)) * 1j}, "0: the numbers are complex128, expected real ones"),
    "texts": ({"0.weight": np.full((2, 2), "a")}, "0: could not convert"),
    "no arrays": ({"epoch": 3, "model_state_dict": {}}, "holds epoch of type int, model_state_dict of type dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_no_layers_are_refused(name):
    made, message = WRONG[name]
    with pytest.raises(NetworkError, match=message):
        tg.from_torch(made)


def test_files_that_are_damaged(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    save_file(tensors(rng, 3, 4), path)
    path.write_bytes(path.read_bytes()[:-1])
    for read in (tg.read_network, tg.read_state_dict):
        with pytest.raises(FileError, match="cannot read .*net.safetensors as a safetensors file"):
            read(path)


def test_arguments_of_modules_are_none_of_state_dicts(rng):
    with pytest.raises(NetworkError, match=r"input_shape is \(3,\), but a state dict has its own"):
        tg.from_torch(tensors(rng, 3, 4), input_shape=(3,))


def test_a_state_dict_that_is_written_is_read_as_it_was(tmp_path, rng):
    network = chain(rng, *ENDS)
    tg.write_state_dict(network, tmp_path / "net.safetensors")
    again = tg.read_network(tmp_path / "net.safetensors")
    assert again.digest == network.digest
    changed = tg.read_network(tmp_path / "net.safetensors", activation="sigmoid")
    assert [layer.activation for layer in changed] == ["sigmoid"] * 3 + ["identity"]


def test_what_cannot_be_a_state_dict_is_not_written(tmp_path, rng, graph):
    with pytest.raises(NetworkError, match="cannot say which layer reads which: write an ONNX or a packed file"):
        tg.write_state_dict(graph, tmp_path / "net.safetensors")
    for names in (["a"], ["a", "a"]):
        with pytest.raises(NetworkError, match="1 different names are given for 2 layers"):
            tg.write_state_dict(chain(rng, {}, {}), tmp_path / "net.safetensors", names=names)
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_says_of_its_activations_may_be_wrong(tmp_path):
    for text, message in (
        ("[]", "says the activations of 0 layers, but has 1"),
        ("3", "does not say"),
        ("[{}]", "not say"),
    ):
        save_file({"0.weight": np.ones((1, 1))}, tmp_path / "n.safetensors", {"taskgraph-dnn.activations": text})
        with pytest.raises(FileError, match=message):
            tg.read_network(tmp_path / "n.safetensors")


def test_torch_can_load_what_is_written(tmp_path, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from safetensors.torch import load_file

    network = chain(rng, {}, {}, {"activation": "identity"})
    path = tmp_path / "net.safetensors"
    tg.write_state_dict(network, path)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    module = torch.nn.Sequential(linear(8, 8), relu(), linear(8, 8), relu(), linear(8, 8))
    module.load_state_dict(load_file(path))
    rows = rng.standard_normal((9, 8)).astype(np.float32)
    with torch.no_grad():
        assert_agrees(network, rows, module(torch.from_numpy(rows)).numpy())


def test_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    rows = torch.randn(7, 6)
    network = tg.read_network(tmp_path / "state.pt", neurons=6)
    assert_agrees(network, rows.numpy(), module(rows).detach().numpy())
    torch.save(module, tmp_path / "module.pth")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:500])
    for name in ("module.pth", "damaged.pt"):
        with pytest.raises(
            FileError, match=f"{name}, which holds more than tensors or is damaged .* save the state dict"
        ):
            tg.read_network(tmp_path / name)
    torch.save(
        {name.replace("2", "10"): tensor for name, tensor in sorted(module.state_dict().items())[::-1]},
        tmp_path / "dict.pt",
    )
    assert tg.read_network(tmp_path / "dict.pt").digest == network.digest
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FileError, match="list.pt holds a list, expected a state dict"):
        tg.read_network(tmp_path / "list.pt")


def test_a_pickle_of_torch_runs_no_code(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Bad:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"0.weight": Bad()}, tmp_path / "bad.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, reason in (("bad.pt", "Unsupported global: .*getattr"), ("text.pt", "KeyError")):
        with pytest.raises(FileError, match=rf"more than tensors or is damaged \({reason}"):
            tg.read_network(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_tensors_of_torch_without_numbers_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for tensor, message in (
        (torch.ones(2, 2, device="meta"), "0: torch does not give the numbers: .*meta"),
        (torch.ones(2, 2, dtype=torch.complex64), "0: the numbers are complex64, expected real ones"),
    ):
        with pytest.raises(NetworkError, match=f"the state dict: {message}"):
            tg.from_torch({"0.weight": tensor})


def test_weights_keep_their_precision_until_they_are_layers(rng):
    """So that a file of float32 is not in memory twice as large."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weights = rng.standard_normal((3, 2))
    for dtype, kept in ((np.float32, np.float32), (np.float64, np.float64), (np.float16, np.float64)):
        given = weights.astype(dtype)
        for same in (given, torch.from_numpy(given)):
            assert array(same).dtype == kept
            np.testing.assert_array_equal(array(same), given)


def test_sparse_tensors_of_torch(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weights = torch.from_numpy(rng.standard_normal((5, 3))).relu()
    expected = tg.from_torch({"0.weight": weights}).digest
    assert tg.from_torch({"0.weight": weights.to_sparse()}).digest == expected


MISSING = {
    "torch": lambda folder: tg.read_network(_touched(folder / "a.pt")),
    "onnx": lambda folder: tg.read_network(_touched(folder / "a.onnx")),
    "onnx ": lambda folder: tg.to_onnx(tg.Network([tg.Layer([[1.0]])])),
    "torch ": lambda folder: tg.from_torch(3),
    "sklearn": lambda folder: tg.from_sklearn(3),
}


def _touched(path):
    path.touch()
    return path


@pytest.mark.parametrize("name", MISSING)
def test_errors_say_what_to_install(name, tmp_path, monkeypatch):
    package = name.strip()
    for module in list(sys.modules):
        if module.split(".")[0] == package or module.startswith("taskgraph_dnn.models."):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # then an import of it fails
    for module in ("torch_module", "onnx_graph", "onnx_model", "sklearn_mlp"):
        monkeypatch.delattr(f"taskgraph_dnn.models.{module}", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'taskgraph-dnn\[{package}\]'"):
        MISSING[name](tmp_path)


# Numpy's files.


def test_an_npz_file_that_is_written_is_read_as_it_was(tmp_path, rng, graph):
    for network in (chain(rng, *ENDS), graph):
        tg.write_npz(network, tmp_path / "net.npz")
        again = tg.read_network(tmp_path / "net.npz", neurons=network.inputs)
        assert again.digest == network.digest
        assert [again.sources(k) for k in range(len(again))] == [network.sources(k) for k in range(len(network))]


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "coo"])
def test_npz_files_of_others(tmp_path, rng, form):
    weights = rng.standard_normal((4, 3)) * (rng.random((4, 3)) < 0.5)
    arrays = {"weights": weights}
    if form != "dense":
        scipy.sparse.save_npz(tmp_path / "one.npz", getattr(scipy.sparse, f"{form}_matrix")(weights))
        with np.load(tmp_path / "one.npz") as file:
            arrays = dict(file)
    arrays["bias"] = np.arange(3)
    second = {"layers.1.weights": np.ones((3, 2), np.int64), "layers.1.activation": "tanh", "layers.1.cap": 0.5}
    np.savez(tmp_path / "net.npz", **{f"layers.0.{name}": array for name, array in arrays.items()}, **second)
    expected = [tg.Layer(weights, bias=np.arange(3)), tg.Layer(np.ones((3, 2)), activation="tanh", cap=0.5)]
    assert tg.read_network(tmp_path / "net.npz").digest == tg.Network(expected).digest


ARRAYS = {
    "others": ({"W1": [[1.0]], "b1": [1.0]}, "holds W1, b1, expected layers.0.weights or"),
    "many others": ({f"a{k}": 1 for k in range(20)}, "a7 and 12 more, expected"),
    "one matrix": ({"format": "csr", "data": [1.0]}, "holds format, data, expected layers.0.weights"),
    "nothing": ({}, "holds no arrays, expected"),
    "a gap": ({"layers.0.weights": [[1.0]], "layers.2.weights": [[1.0]]}, "layers.1 is missing, but there is layers.2"),
    "no weights": (
        {"layers.0.bias": 1.0},
        "layers.0: there are no weights, and the format is none, expected one of csr",
    ),
    "no data": (
        {"layers.0.format": "csr", "layers.0.shape": [1, 1]},
        "layers.0: data is missing, which belongs to csr",
    ),
    "more": ({"layers.0.weights": [[1.0]], "layers.0.scale": 1}, "layers.0: found scale, expected layers.0.weights"),
    "flat": ({"layers.0.weights": [1.0]}, r"layers.0: weights have shape \(1,\), expected 2"),
    "nan": ({"layers.0.weights": [[np.nan]]}, "layers.0: weight of input 0, output 0 is nan"),
    "activation": ({"layers.0.weights": [[1.0]], "layers.0.activation": "gelu"}, "layers.0: unknown activation 'gelu'"),
    "objects": ({"layers.0.weights": np.array([None])}, "cannot read .*net.npz as an .npz file"),
    "outside": (
        {
            f"layers.0.{k}": v
            for k, v in {"format": "coo", "shape": [1, 1], "data": [1.0], "row": [5], "col": [0]}.items()
        },
        "layers.0: .*exceeds",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npz_files_that_are_no_networks_are_refused(tmp_path, name):
    arrays, message = ARRAYS[name]
    np.savez(tmp_path / "net.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    with pytest.raises(FileError, match=message):
        tg.read_network(tmp_path / "net.npz")


def test_npz_files_of_layers_that_do_not_fit(tmp_path):
    arrays = {"layers.0.weights": np.ones((2, 3)), "layers.1.weights": np.ones((2, 3))}
    np.savez(tmp_path / "net.npz", **arrays)
    with pytest.raises(NetworkError, match="net.npz: layer 2 has 2 inputs, but layer 1 has 3 outputs"):
        tg.read_network(tmp_path / "net.npz")
    np.savez(tmp_path / "net.npz", **arrays, **{"layers.1.sources": [1]})
    with pytest.raises(NetworkError, match="net.npz: layer 2 "):
        tg.read_network(tmp_path / "net.npz")


def test_npz_files_that_are_damaged(tmp_path, rng):
    path = tmp_path / "net.npz"
    tg.write_npz(chain(rng, {}), path)
    content = path.read_bytes()
    for damaged in (content[:100], content[:-40], b"", content[:60] + bytes(20) + content[80:]):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="net.npz"):
            tg.read_network(path)
    central = content.index(b"PK\x01\x02")
    for place in (central + 6, central + 10):  # the version of zip that is needed, and how it is compressed
        path.write_bytes(content[:place] + b"\xd2" + content[place + 1 :])
        with pytest.raises(FileError, match="cannot read .*net.npz as an .npz file"):
            tg.read_network(path)
    np.save(tmp_path / "array.npy", np.ones(3))
    path.write_bytes((tmp_path / "array.npy").read_bytes())
    with pytest.raises(FileError, match="it holds one array"):
        tg.read_network(path)
    with pytest.raises(NetworkError, match="net.npz holds its own activation, so activation=relu cannot be given"):
        tg.read_network(path, activation="relu")


# Biases beside the weights.


def test_a_bias_beside_a_matrix_market_file(tmp_path, rng):
    network = tg.Network([tg.Layer(rng.standard_normal((4, 3))), tg.Layer(rng.standard_normal((3, 3)))])
    tg.write_matrix_market(network, tmp_path / "net")
    bias = rng.standard_normal(3).astype(np.float32)
    for matrix in (bias[None], bias[:, None], scipy.sparse.coo_array(bias[None])):
        scipy.io.mmwrite(tmp_path / "net" / "layer-2-bias.mtx", matrix)
        read = tg.read_network(tmp_path / "net")
        assert [layer.bias.tolist() for layer in read] == [[0, 0, 0], pytest.approx(bias.tolist())]
    with pytest.raises(NetworkError, match="bias is 1, but layer-2.mtx has its own in layer-2-bias.mtx"):
        tg.read_network(tmp_path / "net", bias=1)
    scipy.io.mmwrite(tmp_path / "net" / "layer-2-bias.mtx", bias[None, :2])
    with pytest.raises(FileError, match=r"layer-2-bias.mtx has shape \(1, 2\), expected \(1, 3\) or \(3, 1\)"):
        tg.read_network(tmp_path / "net")


def test_a_bias_beside_a_layer_of_the_challenge(tmp_path, rng):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    network = tg.Network([tg.Layer(np.eye(4), bias=-0.25), tg.Layer(2 * np.eye(4), bias=-0.25)])
    tg.write_challenge_network(network, tmp_path / "net")
    (tmp_path / "net" / "n4-l2-bias.tsv").write_text("1\t2\t0.5\n1\t4\t-3\n")
    read = tg.read_network(tmp_path / "net")
    assert read[1].bias.tolist() == [0, 0.5, 0, -3]
    assert read[0].bias.tolist() == pytest.approx([-0.1] * 4)  # the challenge's
    with pytest.raises(NetworkError, match="bias is 1.0, but n4-l2.tsv has its own in n4-l2-bias.tsv"):
        tg.read_network(tmp_path / "net", bias=1.0)
    for text, message in (
        ("2\t1\t1\n", "line 1: row is 2, expected 1 to 1"),
        ("1\t5\t1\n", "column is 5, expected 1 to 4"),
    ):
        (tmp_path / "net" / "n4-l2-bias.tsv").write_text(text)
        with pytest.raises(FileError, match=f"n4-l2-bias.tsv {message}|n4-l2-bias.tsv line 1: {message}"):
            tg.read_network(tmp_path / "net")
    (tmp_path / "net" / "n4-l2-bias.tsv.gz").touch()
    with pytest.raises(FileError, match=r"holds a bias twice: n4-l2-bias.tsv and n4-l2-bias.tsv.gz"):
        tg.read_network(tmp_path / "net")


def test_a_bias_in_an_archive_is_not_passed_over(tmp_path, rng):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import tarfile

    tg.write_challenge_network(tg.Network([tg.Layer(np.eye(4))]), tmp_path / "net")
    (tmp_path / "net" / "n4-l1-bias.tsv").write_text("1\t2\t0.5\n")
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as archive:
        archive.add(tmp_path / "net", "net")
    with pytest.raises(
        FileError, match="net.tgz holds n4-l1-bias.tsv, but a layer has a bias of its own only in a folder"
    ):
        tg.read_network(tmp_path / "net.tgz")


# The command.


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_convert_reads_and_writes_them(tmp_path, rng):
    network = chain(rng, {"activation": "tanh"}, {"activation": "softmax"})
    tg.write_npz(network, tmp_path / "a.npz")
    assert "2 layers" in invoke("convert", tmp_path / "a.npz", tmp_path / "b.safetensors")
    invoke("convert", tmp_path / "b.safetensors", tmp_path / "c.npz")
    invoke("convert", tmp_path / "c.npz", tmp_path / "d.safetensors", "--state-dict")
    invoke("convert", tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert tg.read_packed(tmp_path / "e.safetensors", verify=True).digest == network.digest
    invoke("convert", tmp_path / "e.safetensors", tmp_path / "f.safetensors", "--state-dict", "--layers", 1)
    assert len(tg.read_state_dict(tmp_path / "f.safetensors")) == 1
    invoke("convert", tmp_path / "f.safetensors", tmp_path / "g.npz", "--activation", "sigmoid")
    assert tg.read_npz(tmp_path / "g.npz")[0].activation == "identity"  # of the last layer
    tg.write_matrix_market(tg.Network([tg.Layer(np.eye(3))]), tmp_path / "net")
    invoke("convert", tmp_path / "net", tmp_path / "h.npz", "--bias", 2)
    assert tg.read_npz(tmp_path / "h.npz")[0].bias.tolist() == [2, 2, 2]


def test_models_behind_a_url_are_not_taken_for_packed_files():
    for path in ("https://example.org/model.onnx", "s3://bucket/model.npz"):
        with pytest.raises(FileError, match=f"{path} is behind a URL, where only packed files"):
            tg.read_network(path)


def test_convert_says_what_it_can_write(tmp_path, rng):
    tg.write_npz(chain(rng, {}), tmp_path / "a.npz")
    output = invoke("convert", tmp_path / "a.npz", tmp_path / "b.tar.gz", code=1)
    assert "the name ends in '.gz', expected .safetensors, .onnx, .npz" in output
    output = invoke("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--state-dict", code=1)
    assert "the name ends in '.npz', expected .safetensors" in output
    with pytest.raises(FileError, match="b.h5 is of no format that can be written"):
        tg.io.convert_network(tmp_path / "a.npz", tmp_path / "b.h5")


def test_convert_to_onnx(tmp_path, rng):
    pytest.importorskip("onnx", reason="onnx is not installed")
    network = chain(rng, {}, {"activation": "softmax"})
    tg.write_packed(network, tmp_path / "a.safetensors")
    invoke("convert", tmp_path / "a.safetensors", tmp_path / "b.onnx")
    invoke("convert", tmp_path / "b.onnx", tmp_path / "c.safetensors")
    assert tg.read_packed(tmp_path / "c.safetensors").digest == network.digest
