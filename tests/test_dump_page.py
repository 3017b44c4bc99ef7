"""The page works in a browser: what one sees, clicks and types."""

import json

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn import dump
from taskgraph_dnn.dump import GraphView, Node, make_view
from tests.browser import PROGRAM
from tests.test_dump import NASTY

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open pages with"),
    pytest.mark.usefixtures("nothing_goes_wrong"),
]

SIZES = [(1280, 800), (400, 700)]


@pytest.fixture(scope="module")
def view():
    network, images = tg.radixnet(neurons=64, layers=12), tg.digit_images(samples=96, neurons=64)
    inference = tg.infer(network, images, partitions=5, kernel="scipy", strategy="pipeline", reductions="none")
    return make_view(inference.plan, "logical")


@pytest.fixture(scope="module")
def page(view, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "a graph.html"
    path.write_text(dump.page.render(view), encoding="utf-8")
    return path


def text(browser, selector):
    return browser.value(f"document.querySelector({json.dumps(selector)}).textContent")


def details(browser):
    """The attributes in the panel, or None where it is closed."""
    if browser.value("document.getElementById('details').hidden"):
        return None
    names = browser.value("[...document.querySelectorAll('#known dt')].map(each => each.textContent)")
    values = browser.value("[...document.querySelectorAll('#known dd')].map(each => each.textContent)")
    return text(browser, "#name"), dict(zip(names, values, strict=True))


def search(browser, query):
    browser.value("document.getElementById('query').focus(), document.getElementById('query').select()")
    browser("Input.insertText", text=query)
    browser.drawn()


def middle(browser):
    """The middle of the canvas."""
    return browser.value(
        "(({left, top, width, height}) => [left + width / 2, top + height / 2])"
        "(document.getElementById('graph').getBoundingClientRect())"
    )


def drawing(browser):
    """What the canvas shows."""
    return browser.value("document.getElementById('graph').toDataURL()")


def colours(browser):
    """How many colours the canvas shows."""
    return browser.value(
        "((canvas) => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data.buffer)).size)(document.getElementById('graph'))"
    )


def overlaps(browser):
    """Pairs of what one reads or presses that cover one another, and what does not lie within the window."""
    return browser.value(
        """(() => {
          const all = "h1, #note, #query, #found, .choice, .zoom button, canvas, #details, #legend";
          const places = [...document.querySelectorAll(all)]
            .map((each) => [each.id || each.tagName, each.getBoundingClientRect()])
            .filter(([, {width, height}]) => width && height);
          const apart = (a, b) => a.right <= b.left + 0.5 || a.bottom <= b.top + 0.5;
          const found = [];
          for (const [name, a] of places) {
            if (a.left < 0 || a.top < 0 || a.right > innerWidth + 0.5 || a.bottom > innerHeight + 0.5) found.push(name);
            for (const [other, b] of places) if (a !== b && !apart(a, b) && !apart(b, a)) found.push([name, other]);
          }
          if (document.documentElement.scrollWidth > innerWidth) found.push("the window scrolls");
          return found;
        })()"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_opens_in_both_schemes_and_sizes_and_nothing_overlaps(browser, page, width, height, scheme):
    browser.open(page, width=width, height=height, scheme=scheme)
    assert browser.value("document.title") == "Task graph: 12 layers x 5 partitions"
    assert overlaps(browser) == []
    assert colours(browser) > 10
    paper = browser.value("[...document.getElementById('graph').getContext('2d').getImageData(1, 1, 1, 1).data]")
    assert (sum(paper[:3]) > 600) == (scheme == "light")
    search(browser, "layer 3, 1")
    browser.press("Enter")
    assert details(browser)[0] == "layer 3, 1"
    assert overlaps(browser) == []


def test_search_finds_nodes_and_shows_all_that_is_known(browser, page, view):
    browser.open(page)
    assert details(browser) is None
    search(browser, "layer 1")
    assert text(browser, "#found") == "20 found"  # 1, 10, 11 and 12
    search(browser, "LAYER 7, 3")
    browser.press("Enter")
    assert text(browser, "#found") == "1 of 1"
    name, shown = details(browser)
    assert name == "layer 7, 3"
    (node,) = [node for node in view.nodes if node.name == name]
    titles = {"seconds": "duration", "nbytes": "bytes"}
    assert set(shown) == {titles.get(key, key) for key in node.attributes}
    for key in ("layer", "partition", "worker", "span", "nnz", "samples"):
        assert shown[key] == f"{node.attributes[key]:,}"
    assert (shown["kind"], shown["kernel"]) == ("layer", "scipy")
    assert shown["bytes"].endswith("KiB")
    assert text(browser, "#sources") == "layer 6, 3"
    assert text(browser, "#targets") == "layer 8, 3"


def test_search_goes_from_match_to_match(browser, page):
    browser.open(page)
    search(browser, "kind=output")
    seen = []
    for _ in range(6):
        browser.press("Enter")
        seen.append(details(browser)[0])
    assert seen == [f"output, {p}" for p in (0, 1, 2, 3, 4, 0)]
    search(browser, "no such node")
    assert text(browser, "#found") == "0 found"


def test_a_click_shows_a_node_and_links_lead_on(browser, page):
    browser.open(page)
    search(browser, "layer 5, 2")
    browser.press("Enter")  # puts it into the middle
    browser.press("Escape")
    assert details(browser) is None
    browser.click(*middle(browser))
    assert details(browser)[0] == "layer 5, 2"
    browser.value("document.querySelector('#targets button').click()")
    assert details(browser)[0] == "layer 6, 2"
    browser.value("document.getElementById('close').click()")
    assert details(browser) is None


def test_keys_go_from_node_to_node(browser, page):
    browser.open(page)
    browser.value("document.getElementById('graph').focus()")
    names = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        browser.press(key)
        names.append(details(browser)[0])
    assert names == ["input, 0", "layer 1, 0", "layer 1, 1"]
    browser.press("/")
    assert browser.value("document.activeElement.id") == "query"
    assert browser.value("document.getElementById('query').value") == ""


def test_it_zooms_and_pans(browser, page):
    browser.open(page)
    pictures = [drawing(browser)]
    x, y = middle(browser)
    browser("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-400)
    browser.drawn()
    pictures.append(drawing(browser))
    browser("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=x + 80, y=y + 40, button="left", buttons=1)
    browser("Input.dispatchMouseEvent", type="mouseReleased", x=x + 80, y=y + 40, button="left", clickCount=1)
    browser.drawn()
    pictures.append(drawing(browser))
    assert details(browser) is None  # a drag is no click
    browser.press("+")
    pictures.append(drawing(browser))
    assert len(set(pictures)) == 4
    browser.press("0")
    assert drawing(browser) == pictures[0]


def test_words_can_be_read_at_first_and_a_button_shows_the_whole(browser, page):
    browser.open(page, width=400, height=700)
    assert browser.value("camera.scale >= WORDS_FROM && camera.x < world.left")
    assert browser.value("camera.x + size.width / camera.scale < world.right")
    browser.value("document.getElementById('whole').click()")
    assert browser.value("camera.x < world.left && camera.x + size.width / camera.scale > world.right")


def test_two_fingers_zoom(browser, page):
    browser.open(page, width=400, height=700)
    scale = browser.value("camera.scale")
    x, y = middle(browser)
    for kind, apart in (("touchStart", 40), ("touchMove", 80), ("touchMove", 120)):
        fingers = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        browser("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
    browser("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.drawn()
    assert browser.value("camera.scale") == pytest.approx(3 * scale, rel=0.1)
    assert details(browser) is None


def test_it_colours_by_what_is_known(browser, page):
    browser.open(page)
    offered = browser.value("[...document.getElementById('colour').options].map(each => each.value)")
    assert {"layer", "worker", "seconds", "density"} <= set(offered)
    seen = set()
    for key in offered:
        browser.value(f"document.getElementById('colour').value = '{key}', colour()")
        browser.drawn()
        assert text(browser, "#legend")
        assert overlaps(browser) == []
        seen.add((drawing(browser), text(browser, "#legend")))
    assert len(seen) == len(offered)


def test_texts_are_texts_whatever_is_in_them(browser, tmp_path):
    known = {"kind": NASTY, "kernel": NASTY, "layer": 1}
    nodes = (Node(NASTY, 0, 0, known), Node("other", 1, 0, {"kind": "output"}))
    path = tmp_path / "nasty.html"
    view = GraphView(NASTY, NASTY, (NASTY, "output"), (NASTY,), nodes, ((NASTY, "other"),))
    path.write_text(dump.page.render(view), encoding="utf-8")
    browser.open(path)
    search(browser, "other")
    browser.press("Enter")
    browser.value("document.querySelector('#sources button').click()")
    name, shown = details(browser)
    assert (name, shown["kernel"]) == (NASTY, NASTY)
    assert (text(browser, "h1"), text(browser, "#note")) == (NASTY, NASTY)
    assert NASTY in text(browser, "#legend")
    assert browser.value("typeof window.hacked") == "undefined"


def test_an_empty_graph_is_a_page(browser, tmp_path):
    inference = tg.infer(tg.Network([tg.Layer(np.eye(2))]), np.ones((0, 2)))
    browser.open(inference.visualize(tmp_path / "empty.html"))
    assert text(browser, "h1") == "1 layer x 0 partitions"


def test_twenty_thousand_nodes_are_drawn(browser, tmp_path):
    network = tg.Network([tg.Layer(np.eye(4))] * 198)
    inference = tg.infer(network, np.ones((1000, 4)), partitions=100, kernel="scipy", reductions="none")
    browser.open(inference.visualize(tmp_path / "large.html"))
    assert text(browser, "#note") == ""  # nothing is collapsed
    search(browser, "layer 99, 50")
    browser.press("Enter")
    assert details(browser)[0] == "layer 99, 50"
    browser.press("Escape")
    browser.click(*middle(browser))
    assert details(browser)[0] == "layer 99, 50"
