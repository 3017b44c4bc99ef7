"""Graphs in every view and format hold what the plan, and Dask's graph, hold."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import unescape
from pathlib import Path

import dask
import networkx
import numpy as np
import pytest
from distributed import LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn import dump
from taskgraph_dnn.dump import GraphView, Node, make_view, write_graph
from taskgraph_dnn.errors import DumpError, FileError
from taskgraph_dnn.plan import make_plan
from tests.conftest import random_layer

REPOSITORY = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"
SUFFIXES = (".svg", ".png", ".dot", ".json", ".graphml", ".mmd", ".html")
NASTY = "<b>\"q\" & 'x' \\ </script><script>window.hacked = 1</script> é 模型 #35; %%{ ]--> \\"


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


@pytest.fixture(scope="module")
def merging():
    """Seven partitions, whose last samples go to a merged one; a layer that adds equal inputs up comes first."""
    network, images = tg.radixnet(neurons=64, layers=12), tg.digit_images(samples=70, neurons=64)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-6}):
        inference = tg.infer(network, images, partitions=7, kernel="scipy")
    assert inference.plan.merged == 1
    assert inference.plan.folds_inputs
    assert len(inference.plan.spans) > 2
    return inference


@pytest.fixture(scope="module")
def large():
    """1,920 layers x 60 partitions."""
    network = tg.Network([tg.Layer(np.eye(4))] * 1920)
    return tg.infer(network, np.ones((600, 4)), partitions=60, kernel="scipy", reductions="none").plan


def expected_edges(layers, partitions):
    names = lambda p: ["input", *(f"layer {n}" for n in range(1, layers + 1)), "output"]  # noqa: E731
    return {(f"{a}, {p}", f"{b}, {p}") for p in range(partitions) for a, b in zip(names(p), names(p)[1:], strict=False)}


def as_drawn(view):
    return {node.name: dict(node.attributes) for node in view.nodes}, set(view.edges)


# What is drawn.


def test_the_logical_view_has_a_node_for_each_layer_and_partition(inference):
    view = make_view(inference.plan, "logical")
    nodes, edges = as_drawn(view)
    assert (view.title, view.note) == ("3 layers x 2 partitions", "")
    assert edges == expected_edges(3, 2)
    assert len(nodes) == len(view.nodes) == 10
    layer = inference.plan.layers[1]
    assert nodes["layer 2, 1"] == {
        "kind": "layer",
        "layer": 2,
        "layers": 1,
        "partition": 1,
        "partitions": 1,
        "samples": 5,
        "first_sample": 5,
        "neurons": 4,
        "nnz": layer.nnz,
        "density": pytest.approx(layer.nnz / 64, rel=1e-3),
        "kernel": "scipy",
        "span": 0,
        "nbytes": 4 * 4 * 5,
        "seconds": pytest.approx(layer.seconds, rel=1e-3),
    }
    assert nodes["layer 3, 0"]["span"] == 1


def test_nodes_know_their_share_of_the_expected_seconds(rng):
    network = tg.Network([random_layer(rng, 8, 8)] * 3)
    chosen = tg.config.settings(kernel="scipy", reductions="none", dtype="float64")
    plan = make_plan(network, 96, chosen, threads=2, partitions=[(0, 64), (64, 96)])
    nodes, _ = as_drawn(make_view(plan, "logical"))
    assert nodes["layer 2, 1"]["seconds"] == pytest.approx(nodes["layer 2, 0"]["seconds"] / 2, rel=1e-3)
    assert nodes["layer 2, 1"]["nbytes"] == 8 * 8 * 32  # float64
    tasks, _ = as_drawn(make_view(plan, "tasks"))
    in_tasks = sum(node.get("seconds", 0) for node in tasks.values())
    assert in_tasks == pytest.approx(sum(node.get("seconds", 0) for node in nodes.values()), rel=1e-3)
    assert in_tasks == pytest.approx(plan.task_seconds.sum(), rel=1e-3)


def test_a_partition_may_be_empty(inference):
    """Chunks of a Dask array may be."""
    view = make_view(replace(inference.plan, partitions=((0, 0),)), "logical")
    known = as_drawn(view)[0]["layer 1, 0"]
    assert (known["samples"], known["nbytes"], known["seconds"]) == (0, 0, 0.0)


@pytest.mark.parametrize("name", ["inference", "merging"])
def test_the_tasks_view_is_the_graph_that_dask_gets(name, request):
    inference = request.getfixturevalue(name)
    plan, token = inference.plan, inference.token
    view = make_view(plan, "tasks")
    stops = {
        node.name: (
            node.attributes["layer"] + node.attributes["layers"] - 1 + plan.folds_inputs,
            node.attributes["partition"],
        )
        for node in view.nodes
        if node.attributes["kind"] in ("layer", "merged")
    }
    stops |= {node.name: (0, node.attributes["partition"]) for node in view.nodes if node.attributes["kind"] == "input"}
    drawn = {(stops[source], stops[target]) for source, target in view.edges if target in stops}
    graph = dict(inference.__dask_graph__())

    def came_from(key):
        """Where a task's activations come from: through the small tasks that leave samples to merged partitions."""
        for before in graph[key].dependencies:
            if before[0] == f"left-{token}":
                yield from came_from(before)
            elif before[0] in (f"layers-{token}", f"inputs-{token}"):
                yield (before[1] if before[0][0] == "l" else 0, before[-1])

    tasks = [key for key in graph if key[0] == f"layers-{token}"]
    assert drawn == {(source, key[1:]) for key in tasks for source in came_from(key)}
    assert len([stop for stop, _ in stops.values() if stop]) == len(tasks) == plan.tasks


@pytest.mark.parametrize("name", ["logical", "tasks", "collapsed"])
def test_merged_partitions_are_drawn_in_every_view(merging, name):
    view = make_view(merging.plan, name)
    nodes, edges = as_drawn(view)
    assert view.title == "13 layers x 7 partitions and 1 merged"
    merged = {name: known for name, known in nodes.items() if known["kind"] == "merged"}
    assert merged
    assert all(known["partition"] == 7 and known["samples"] == 7 * merging.plan.few for known in merged.values())
    assert not any("seconds" in known for known in merged.values())  # nobody knows what will be left
    assert "output, 7" in nodes
    assert "input, 7" not in nodes
    takers = {target for source, target in edges if target in merged and source not in merged}
    assert len(takers) == len(merging.plan.spans) - 1
    for taker in takers:
        assert sum(target == taker and source not in merged for source, target in edges) == 7
    assert {name for edge in edges for name in edge} == set(nodes)


@pytest.mark.parametrize("name", ["logical", "tasks", "collapsed"])
@pytest.mark.parametrize("fixture", ["inference", "merging"])
def test_views_are_acyclic_and_lead_from_inputs_to_outputs(fixture, name, request):
    nodes, edges = as_drawn(make_view(request.getfixturevalue(fixture).plan, name))
    graph = networkx.DiGraph(edges)
    assert networkx.is_directed_acyclic_graph(graph)
    assert {node for node, degree in graph.in_degree() if not degree} == {n for n in nodes if n.startswith("input")}
    assert {node for node, degree in graph.out_degree() if not degree} == {n for n in nodes if n.startswith("output")}


def test_the_collapsed_view_adds_groups_up(large):
    view = make_view(large, "collapsed")
    nodes, edges = as_drawn(view)
    assert view.note == "each box is up to 160 layers of up to 8 partitions"
    assert len(nodes) == 8 * (12 + 2)
    assert len(edges) == 8 * 13
    group = nodes["layers 161-320, 7-14"]
    assert (group["layer"], group["layers"], group["partition"], group["partitions"]) == (161, 160, 7, 8)
    assert (group["samples"], group["nnz"], group["density"]) == (80, 160 * 4, 0.25)
    layers = [known for known in nodes.values() if known["kind"] == "layer"]
    assert sum(known["layers"] * known["partitions"] for known in layers) == large.nodes
    assert sum(known["seconds"] for known in layers) == pytest.approx(large.task_seconds.sum(), rel=1e-3)


def test_a_group_has_a_worker_only_where_it_is_one(rng):
    network = tg.Network([random_layer(rng, 8, 8)] * 40)
    chosen = tg.config.settings(strategy="pipeline", kernel="scipy", reductions="none", task_seconds=1e-9)
    plan = make_plan(network, 64, chosen, threads=4, workers=4, partitions=[(0, 32), (32, 64)])
    for name in ("logical", "tasks", "collapsed"):
        for node in make_view(plan, name).nodes:
            known = node.attributes
            if known["kind"] != "layer":
                continue
            layers = range(known["layer"] - 1, known["layer"] - 1 + known["layers"])
            spans = [n for n, (first, stop) in enumerate(plan.spans) if set(layers) & set(range(first, stop))]
            workers = {plan.worker(span, known["partition"]) for span in spans}
            assert known.get("worker") == (workers.pop() if len(workers) == 1 else None)


def test_the_graph_follows_the_layers_sources(inference, tmp_path):
    first, second, third = inference.plan.layers
    residual = replace(inference.plan, layers=(first, second, replace(third, sources=(0, 1))))
    _, edges = as_drawn(make_view(residual, "logical"))
    assert edges == expected_edges(3, 2) | {("layer 1, 0", "layer 3, 0"), ("layer 1, 1", "layer 3, 1")}
    write_graph(residual, tmp_path / "graph.svg", layout="grid")
    paths = [path.get("d") for path in ElementTree.parse(tmp_path / "graph.svg").iter(f"{SVG}path")]
    assert sum("C" in path for path in paths) == 2  # bent, so that they do not run through the box between


# Formats.


def read_dot(text):
    """Nodes with their attributes, and edges, of what `dot.render` writes; anything else does not match."""
    quoted = r'"((?:[^"\\]|\\.)*)"'
    plain = lambda found: re.sub(r"\\(.)", r"\1", found)  # noqa: E731
    head, *lines, end = text.splitlines()
    assert (head, end) == ("digraph inference {", "}")
    nodes, edges = {}, set()
    for line in lines[2:]:
        if found := re.fullmatch(rf"  {quoted} -> {quoted};", line):
            edges.add((plain(found[1]), plain(found[2])))
            continue
        found = re.fullmatch(rf"  {quoted} \[((?:\w+={quoted}(?:, )?)*)\];", line)
        assert found, line
        known = {name: plain(value) for name, value in re.findall(rf"(\w+)={quoted}", found[2])}
        assert known.pop("fillcolor")
        assert known.pop("label").startswith(plain(found[1]))
        nodes[plain(found[1])] = known
    return nodes, edges


def read_mermaid(text):
    """Nodes with their attributes, and edges, of what `mermaid.render` writes; anything else does not match."""
    plain = lambda found: re.sub(r"#(\d+);", lambda code: chr(int(code[1])), found)  # noqa: E731
    head, _, *lines = text.splitlines()
    assert head == "flowchart LR"
    known, names, edges = {}, {}, set()
    for line in lines:
        if found := re.fullmatch(r"  %% (n\d+): (.*)", line):
            assert not set(found[2]) & set('"<>{}[]|;') - {";"}
            known[found[1]] = {a: plain(b) for a, b in re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", found[2])}
        elif found := re.fullmatch(r'  (n\d+)\["([^"<>{}|]+?)(?:<br>[^"<>{}|]*)?"\](:::\w+)?', line):
            names[found[1]] = plain(found[2])
        elif found := re.fullmatch(r"  (n\d+) --> (n\d+)", line):
            edges.add((names[found[1]], names[found[2]]))
        else:
            assert re.fullmatch(r"  classDef \w+ [\w:#,]+", line), line
    return {names[number]: known[number] for number in names}, edges


def read_svg(text):
    root = ElementTree.fromstring(text)
    groups = [group for group in root.iter(f"{SVG}g") if "node" in group.get("class", "")]
    tooltips = [group.find(f"{SVG}title").text.split("\n") for group in groups]
    return {name: dict(fact.split(": ", 1) for fact in facts) for name, *facts in tooltips}


def read_html(text):
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])
    nodes = {
        name: {key: value for key, value in zip(data["attributes"], values, strict=True) if value is not None}
        for name, _, _, *values in data["nodes"]
    }
    names = list(nodes)
    return nodes, {(names[source], names[target]) for source, target in data["edges"]}


def read_json(text):
    graph = networkx.node_link_graph(json.loads(text), edges="edges")
    return dict(graph.nodes(data=True)), set(graph.edges)


def read_graphml(text):
    graph = networkx.parse_graphml(text)
    assert graph.is_directed()
    return dict(graph.nodes(data=True)), set(graph.edges)


@pytest.fixture
def nasty():
    """A graph of which every text has what some format has to escape."""
    known = {"kind": NASTY, "layer": 3, "kernel": NASTY, "density": 0.25}
    nodes = (Node(NASTY, 0, 0, known), Node("plain", 1, 0, {"kind": "output", "kernel": "a\\nb"}))
    return GraphView(NASTY, NASTY, (NASTY, "output"), (NASTY,), nodes, ((NASTY, "plain"),))


def views(request):
    """Every view of what is planned, and the nasty one."""
    plans = [request.getfixturevalue(name).plan for name in ("inference", "merging")]
    made = [make_view(plan, name) for plan in plans for name in ("logical", "tasks", "collapsed")]
    return [*made, make_view(request.getfixturevalue("large"), "collapsed"), request.getfixturevalue("nasty")]


@pytest.mark.parametrize(
    ("render", "read"),
    [(dump.node_link.render, read_json), (dump.graphml.render, read_graphml), (dump.page.render, read_html)],
    ids=["json", "graphml", "html"],
)
def test_graphs_read_back_exactly(render, read, request):
    for view in views(request):
        nodes, edges = read(render(view))
        assert (nodes, edges) == as_drawn(view)
        assert list(nodes) == [node.name for node in view.nodes]
        for name, known in as_drawn(view)[0].items():
            assert {key: type(value) for key, value in nodes[name].items()} == {key: type(known[key]) for key in known}


@pytest.mark.parametrize(
    ("render", "read"), [(dump.dot.render, read_dot), (dump.mermaid.render, read_mermaid)], ids=["dot", "mermaid"]
)
def test_texts_for_drawing_hold_the_same(render, read, request):
    for view in views(request):
        nodes, edges = read(render(view))
        expected, expected_edges = as_drawn(view)
        assert edges == expected_edges
        assert nodes == {name: {a: str(b) for a, b in known.items()} for name, known in expected.items()}


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_reads_dot(request):
    for view in views(request):
        read = subprocess.run(["dot", "-Tdot_json"], input=dump.dot.render(view).encode(), capture_output=True)
        assert (read.returncode, read.stderr) == (0, b"")
        graph = json.loads(read.stdout)
        places = [node["name"] for node in graph["objects"]]
        assert len(places) == len(view.nodes)
        assert len(graph["edges"]) == len(view.edges)
        found = {node["name"]: node for node in graph["objects"]}
        for node in view.nodes:
            for name, value in node.attributes.items():
                assert found[node.name.replace("\\", "\\\\")][name] == str(value).replace("\\", "\\\\")


def test_svg_is_a_grid_of_layers_by_partitions(inference, tmp_path):
    assert inference.visualize(tmp_path / "graph.svg", layout="grid") == tmp_path / "graph.svg"
    root = ElementTree.parse(tmp_path / "graph.svg").getroot()
    nodes = [group for group in root.iter(f"{SVG}g") if "node" in group.get("class", "")]
    places = {node.find(f"{SVG}title").text.splitlines()[0]: node.find(f"{SVG}rect") for node in nodes}
    assert len(places) == 10
    assert len([path for path in root.iter(f"{SVG}path") if path.get("class") == "edge"]) == 8
    assert places["layer 2, 0"].get("x") == places["layer 2, 1"].get("x")
    assert places["layer 2, 1"].get("y") == places["input, 1"].get("y")
    bands = [rect for rect in root.findall(f"{SVG}rect") if rect.get("class") == "band"]
    assert len(bands) == inference.plan.tasks
    width, height = float(root.get("width")), float(root.get("height"))
    for rect in root.iter(f"{SVG}rect"):
        assert 0 <= float(rect.get("x")) <= width - float(rect.get("width"))
        assert 0 <= float(rect.get("y")) <= height - float(rect.get("height"))


def test_svg_tells_all_that_is_known(request):
    for view in views(request):
        expected = {name: {a: str(b) for a, b in known.items()} for name, known in as_drawn(view)[0].items()}
        assert read_svg(dump.svg.render(view)) == expected


def test_characters_that_xml_cannot_hold_are_replaced(nasty):
    view = replace(nasty, nodes=(Node("a\x00b\x1b", 0, 0, {"kind": "layer"}),), edges=())
    assert list(read_svg(dump.svg.render(view))) == ["a\ufffdb\ufffd"]
    assert list(read_graphml(dump.graphml.render(view))[0]) == ["a\ufffdb\ufffd"]


def test_png_shows_boxes_and_bands(inference, merging, nasty):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    from io import BytesIO

    for view in (make_view(inference.plan, "logical"), make_view(merging.plan, "collapsed"), nasty):
        picture = dump.picture.layout(view)
        drawn = image.open(BytesIO(dump.png.render(view))).convert("RGB")
        assert drawn.size == (2 * picture.width, 2 * picture.height)
        for box in picture.boxes:
            red, green, blue = drawn.getpixel((2 * box.x + 8, 2 * box.y + 8))
            expected = dump.markup.FILLS.get(box.kind, "#ffffff")
            assert f"#{red:02x}{green:02x}{blue:02x}" == expected
        assert len(drawn.getcolors(1 << 20)) > 20  # text is smooth


def test_a_png_file_of_too_many_pixels_is_refused(large, tmp_path):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    few = replace(large, partitions=large.partitions[:5])
    with pytest.raises(DumpError, match=r"the picture would have .* pixels, expected at most 100,000,000"):
        write_graph(few, tmp_path / "graph.png", view="logical", layout="grid")
    assert not list(tmp_path.iterdir())


def test_pillow_is_named_where_it_is_missing(inference, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(tg.MissingDependencyError, match=r"pillow.*taskgraph-dnn\[visualize\]"):
        inference.visualize(tmp_path / "graph.png", layout="grid")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_graphviz_draws_where_it_is_installed(inference, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"graph{suffix}"
    if shutil.which("dot") is None:
        with pytest.raises(DumpError, match="found no program dot"):
            inference.visualize(path, layout="dot")
        return
    inference.visualize(path)
    drawn = path.read_bytes()
    inference.visualize(path, layout="dot")
    assert path.read_bytes() == drawn
    assert drawn.startswith(b"\x89PNG") if suffix == ".png" else b"Generated by graphviz" in drawn
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DumpError, match="found no program dot"):
        inference.visualize(path, layout="dot")


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_draws_partitions_from_top_to_bottom_and_tells_all_that_is_known(request):
    for name in ("inference", "merging"):
        view = make_view(request.getfixturevalue(name).plan, "logical")
        root = ElementTree.fromstring(dump.dot.draw(view, "svg"))
        links = [link for link in root.iter(f"{SVG}a") if link.find(f"{SVG}text") is not None]
        tooltips = {link.get("{http://www.w3.org/1999/xlink}title"): link for link in links}
        assert set(tooltips) == {"\n".join(node.facts) for node in view.nodes}
        inputs = [node for node in view.nodes if node.attributes["kind"] == "input"]
        heights = [float(tooltips["\n".join(node.facts)].find(f"{SVG}text").get("y")) for node in inputs]
        assert heights == sorted(heights)


def test_what_graphviz_says_is_told(inference, tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no such format >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DumpError, match="dot failed with exit status 3: no such format"):
        inference.visualize(tmp_path / "graph.svg", layout="dot")
    assert [path.name for path in tmp_path.iterdir()] == ["dot"]


# Files.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_partitions_give_an_empty_graph(tmp_path, suffix):
    if suffix == ".png":
        pytest.importorskip("PIL", reason="Pillow is not installed")
    inference = tg.infer(tg.Network([tg.Layer(np.eye(2))]), np.ones((0, 2)))
    path = inference.visualize(tmp_path / f"graph{suffix}")
    if suffix == ".json":
        assert not json.loads(path.read_text())["nodes"]
    if suffix == ".svg":
        ElementTree.parse(path)
    assert path.stat().st_size


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.svgz"])
def test_other_suffixes_are_refused(inference, tmp_path, name):
    with pytest.raises(DumpError, match=rf"cannot write a graph as '{name}', expected .*\.svg, .*\.json, .*\.html"):
        inference.visualize(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "physical"}, "unknown view 'physical', expected one of logical, tasks, collapsed"),
        ({"layout": "round"}, "unknown layout 'round', expected one of auto, grid, dot"),
        ({"layout": "grid"}, "layout is 'grid', but 'graph.json' has none"),
    ],
)
def test_other_views_and_layouts_are_refused(inference, tmp_path, options, message):
    with pytest.raises(DumpError, match=message):
        inference.visualize(tmp_path / "graph.json", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(inference, tmp_path):
    with pytest.raises(FileError, match="there is no folder"):
        inference.visualize(tmp_path / "no" / "graph.dot")


@pytest.mark.parametrize("suffix", [".svg", ".html", ".mmd"])
def test_a_large_graph_is_collapsed_and_that_is_said(large, tmp_path, suffix):
    path = tmp_path / f"graph{suffix}"
    view = write_graph(large, path)
    assert len(view.nodes) <= 8 * 14
    assert "each box is up to 160 layers of up to 8 partitions" in unescape(path.read_text())


def test_mermaid_takes_the_largest_collapsed_graph():
    """It refuses 500 edges, and 50,000 letters."""
    network = tg.Network([tg.Layer(np.eye(4))] * 1920)
    chosen = tg.config.settings(strategy="pipeline", kernel="scipy", reductions="dynamic", task_seconds=1e-9)
    plan = make_plan(network, 100_000, replace(chosen, partitions=50_000), threads=100)
    assert plan.merged > 100
    view = make_view(plan, "collapsed")
    assert len(view.edges) < 500
    assert len(dump.mermaid.render(view)) < 50_000


def test_a_large_graph_is_whole_where_somebody_asks(rng, tmp_path, caplog):
    inference = tg.infer(tg.Network([random_layer(rng, 4, 4)] * 30), np.ones((10, 4)), partitions=10, reductions="none")
    inference.visualize(tmp_path / "graph.mmd")
    assert "each box is up to 3 layers of up to 2 partitions, because all of them would be too many" in caplog.text
    caplog.clear()
    inference.visualize(tmp_path / "graph.mmd", view="logical")
    assert not caplog.text
    assert len(read_mermaid((tmp_path / "graph.mmd").read_text())[0]) == 320


def test_written_graphs_replace_whole_files(inference, tmp_path):
    (tmp_path / "graph.json").write_text("old")
    write_graph(inference.plan, tmp_path / "graph.json")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]
    assert read_json((tmp_path / "graph.json").read_text()) == as_drawn(make_view(inference.plan, "logical"))


def test_dask_draws_its_own_picture(inference, tmp_path):
    drawn = pytest.importorskip("graphviz")
    if shutil.which("dot") is None:
        with pytest.raises((RuntimeError, drawn.ExecutableNotFound)):
            dask.visualize(inference, filename=str(tmp_path / "tasks.svg"))
    else:
        inference.visualize(tmp_path / "tasks.svg", optimize_graph=False)
        assert (tmp_path / "tasks.svg").exists()


# The command line, and the gallery that is made with it.


def invoke(*arguments, code=0):
    from click.testing import CliRunner

    from taskgraph_dnn.cli import main

    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_the_command_says_what_a_box_stands_for(tmp_path):
    job = ("--neurons", 64, "--layers", 30, "--samples", 60, "--partitions", 9, "--reductions", "none")
    assert "288 nodes, 30 layers x 9 partitions\n" in invoke("visualize", tmp_path / "g.json", *job)
    assert "partitions; each box is a task" in invoke("visualize", tmp_path / "g.json", "--view", "tasks", *job)
    assert "partitions; each box is up to 3 layers of" in invoke("visualize", tmp_path / "g.mmd", *job)
    error = invoke("visualize", tmp_path / "g.mmd", "--layout", "grid", *job, code=1)
    assert "layout is 'grid', but 'g.mmd' has none" in error


def test_the_command_plans_for_the_workers_of_a_cluster(tmp_path):
    loopback = {"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **loopback) as cluster:
        job = ("--neurons", 64, "--layers", 8, "--samples", 400, "--strategy", "data", "--reductions", "none")
        invoke("visualize", tmp_path / "g.json", "--scheduler", cluster.scheduler_address, *job)
    nodes = json.loads((tmp_path / "g.json").read_text())["nodes"]
    assert {node["worker"] for node in nodes if node["kind"] == "layer"} == {0, 1}  # not 0 to 3, as with threads


GALLERY = [f"{strategy}{suffix}" for strategy in ("data", "pipeline", "hybrid") for suffix in (".svg", ".json")]


@pytest.mark.parametrize("name", GALLERY)
def test_the_gallery_is_what_make_graphs_makes(name, tmp_path):
    made = tmp_path / name
    layout = ["--layout", "grid"] if made.suffix == ".svg" else []
    config = REPOSITORY / "configs" / "reference-graph.yaml"
    invoke("visualize", made, "--strategy", made.stem, "--config", config, *layout)
    assert made.read_text() == (REPOSITORY / "graphs" / name).read_text()


def test_the_gallery_holds_nothing_else():
    run = {"timeline.json", "timeline.svg"}
    assert {path.name for path in (REPOSITORY / "graphs").iterdir()} == {*GALLERY, *run, "README.md"}
