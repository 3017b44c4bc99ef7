import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import dask
import networkx
import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.dump import logical_graph, write_graph
from taskgraph_dnn.errors import DumpError
from tests.conftest import random_layer

REPOSITORY = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def inference(rng):
    """Two partitions through three layers in two spans, as a picture:

    input, 0 -> [layer 1, 0 -> layer 2, 0] -> [layer 3, 0] -> output, 0
    input, 1 -> [layer 1, 1 -> layer 2, 1] -> [layer 3, 1] -> output, 1
    """
    network = tg.Network([random_layer(rng, 8, 16), random_layer(rng, 16, 4), random_layer(rng, 4, 16, density=1)])
    with dask.config.set({"taskgraph-dnn.task-seconds": 1.5e-5}):
        inference = tg.infer(network, np.ones((10, 8)), partitions=2, kernel="scipy", reductions="none")
    assert inference.plan.spans == ((0, 2), (2, 3))
    return inference


def expected_edges(layers, partitions):
    names = lambda p: ["input", *(f"layer {n}" for n in range(1, layers + 1)), "output"]  # noqa: E731
    return {(f"{a}, {p}", f"{b}, {p}") for p in range(partitions) for a, b in zip(names(p), names(p)[1:], strict=False)}


def test_json_reads_back_with_networkx_to_the_planned_graph(inference, tmp_path):
    inference.visualize(tmp_path / "graph.json")
    graph = networkx.node_link_graph(json.loads((tmp_path / "graph.json").read_text()), edges="edges")
    assert set(graph.edges) == expected_edges(3, 2)
    assert len(graph) == 10
    layer = inference.plan.layers[1]
    assert graph.nodes["layer 2, 1"] == {
        "kind": "layer",
        "layer": 2,
        "partition": 1,
        "samples": 5,
        "first_sample": 5,
        "neurons": 4,
        "nnz": layer.nnz,
        "kernel": "scipy",
        "span": 0,
        "nbytes": 4 * 4 * 5,
    }
    assert graph.nodes["layer 3, 0"]["span"] == 1


def test_dot_holds_every_node_and_edge(inference, tmp_path):
    inference.visualize(tmp_path / "graph.dot")
    text = (tmp_path / "graph.dot").read_text()
    assert set(re.findall(r'^  "(.+)" -> "(.+)";$', text, re.M)) == expected_edges(3, 2)
    assert len(re.findall(r'^  "[^"]+" \[.*kind="\w+".*\];$', text, re.M)) == 10
    assert text.count("{") == text.count("}") == 1


def test_svg_is_a_grid_of_layers_by_partitions(inference, tmp_path):
    assert inference.visualize(tmp_path / "graph.svg") == tmp_path / "graph.svg"
    root = ElementTree.parse(tmp_path / "graph.svg").getroot()
    nodes = [group for group in root.iter(f"{SVG}g") if "node" in group.get("class", "")]
    places = {node.find(f"{SVG}title").text.splitlines()[0]: node.find(f"{SVG}rect") for node in nodes}
    assert len(places) == 10
    assert len(root.findall(f"{SVG}line")) == 8
    assert places["layer 2, 0"].get("x") == places["layer 2, 1"].get("x")
    assert places["layer 2, 1"].get("y") == places["input, 1"].get("y")
    bands = [rect for rect in root.findall(f"{SVG}rect") if rect.get("class") == "band"]
    assert len(bands) == inference.plan.tasks
    width, height = float(root.get("width")), float(root.get("height"))
    for rect in root.iter(f"{SVG}rect"):
        assert 0 <= float(rect.get("x")) <= width - float(rect.get("width"))
        assert 0 <= float(rect.get("y")) <= height - float(rect.get("height"))


def test_no_partitions_give_an_empty_graph(tmp_path):
    inference = tg.infer(tg.Network([tg.Layer(np.eye(2))]), np.ones((0, 2)))
    for suffix in (".svg", ".dot", ".json"):
        inference.visualize(tmp_path / f"graph{suffix}")
    assert not json.loads((tmp_path / "graph.json").read_text())["nodes"]
    ElementTree.parse(tmp_path / "graph.svg")


def test_the_graph_follows_the_layers_sources(inference):
    first, second, third = inference.plan.layers
    residual = replace(inference.plan, layers=(first, second, replace(third, sources=(0, 1))))
    graph = logical_graph(residual)
    assert set(graph.edges) == expected_edges(3, 2) | {("layer 1, 0", "layer 3, 0"), ("layer 1, 1", "layer 3, 1")}
    assert (graph.columns, graph.rows) == (5, 2)


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.svgz"])
def test_other_suffixes_are_refused(inference, tmp_path, name):
    with pytest.raises(DumpError, match=rf"cannot write a graph as '{name}', expected .*\.svg, \.dot, \.json"):
        inference.visualize(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_of_too_many_nodes_is_refused(rng, tmp_path):
    network = tg.Network([random_layer(rng, 4, 4)] * 300)
    inference = tg.infer(network, np.ones((100, 4)), partitions=100, reductions="none")
    with pytest.raises(DumpError, match=r"30,200 nodes, a picture holds 20,000"):
        inference.visualize(tmp_path / "graph.svg")
    inference.visualize(tmp_path / "graph.json")


def test_dask_draws_its_own_picture(inference, tmp_path):
    drawn = pytest.importorskip("graphviz")
    import shutil

    if shutil.which("dot") is None:
        with pytest.raises((RuntimeError, drawn.ExecutableNotFound)):
            dask.visualize(inference, filename=str(tmp_path / "tasks.svg"))
    else:
        inference.visualize(tmp_path / "tasks.svg", optimize_graph=False)
        assert (tmp_path / "tasks.svg").exists()


@pytest.mark.parametrize("name", ["reference.svg", "reference.json"])
def test_the_gallery_is_what_make_graphs_makes(name, tmp_path):
    from click.testing import CliRunner

    from taskgraph_dnn.cli import main

    made = tmp_path / name
    config = str(REPOSITORY / "configs" / "reference-graph.yaml")
    outcome = CliRunner().invoke(main, ["visualize", str(made), "--config", config])
    assert outcome.exit_code == 0, outcome.output
    assert made.read_text() == (REPOSITORY / "graphs" / name).read_text()


def test_written_graphs_replace_whole_files(inference, tmp_path):
    (tmp_path / "graph.json").write_text("old")
    write_graph(inference.plan, tmp_path / "graph.json")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]
