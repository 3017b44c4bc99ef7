"""The page of a run works in a browser: what one sees, clicks and types."""

import dask
import pytest

import taskgraph_dnn as tg
from tests.browser import PROGRAM

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian's package: chromium)"),
    pytest.mark.usefixtures("nothing_goes_wrong"),
]

#: Texts of pictures that stand out of them, and pairs of texts that lie over one another.
OUTSIDE = """[...document.querySelectorAll('svg')].flatMap((svg) => {
  const outer = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < outer.left || box.right > outer.right || box.bottom > outer.bottom + 1;
  }).map((text) => text.textContent);
})"""
OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap((svg) => {
  const boxes = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (p, q) => p.left < q.right && q.left < p.right && p.top + 2 < q.bottom && q.top + 2 < p.bottom;
  return boxes.flatMap(([a, p], n) => boxes.slice(n + 1).filter(([b, q]) => meet(p, q)).map(([b]) => [a, b]));
})"""
SMALLEST = "Math.min(...[...document.querySelectorAll('svg text')].map((text) => text.getBoundingClientRect().height))"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run of several spans and partitions."""
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=200, neurons=64, seed=5)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-5, "taskgraph-dnn.partitions": 3}):
        result = tg.infer(network, images, kernel="scipy").compute(scheduler="threads")
    return tg.write_report(result, tmp_path_factory.mktemp("report") / "run.html")


def click_on(browser, selector):
    """Scroll to the first element that a selector finds, and click into its middle."""
    browser.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', inline: 'center'}})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    browser.click(*browser.value(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})"))


def type_text(browser, text):
    browser("Input.insertText", text=text)
    browser.drawn()


def test_a_task_that_is_clicked_says_what_it_was(browser, report):
    chosen = "document.getElementById('chosen').textContent"
    browser.open(report)
    assert browser.value(chosen) == ""
    click_on(browser, "svg .task")
    assert browser.value(chosen) == browser.value("document.querySelector('svg .task title').textContent")
    assert "partition" in browser.value(chosen)
    click_on(browser, "tr.task")
    assert browser.value(chosen) == browser.value("document.querySelector('tr.task').dataset.told")
    assert browser.value("document.querySelectorAll('.chosen').length") == 1


def test_tasks_are_found_by_what_is_known_of_them(browser, report):
    rows = "[...document.querySelectorAll('tr.task')].filter((row) => !row.hidden).map((row) => row.dataset.told)"
    browser.open(report)
    every = browser.value(rows)
    click_on(browser, "#search")
    type_text(browser, "Partition 1")
    fitting = browser.value(rows)
    assert fitting == [told for told in every if "partition 1" in told]
    assert 0 < len(fitting) < len(every)
    bars = browser.value("[...document.querySelectorAll('svg .task')].map((g) => [g.textContent, g.matches('.dim')])")
    assert all(dim == ("partition 1" not in told) for told, dim in bars)
    assert {dim for _, dim in bars} == {True, False}
    shown = sum(not dim for _, dim in bars)
    assert browser.value("document.getElementById('count').textContent").startswith(f"{shown} bar")
    type_text(browser, " is nowhere")
    assert browser.value(rows) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_a_page_fits_its_window_and_can_be_read(browser, report, width, scheme):
    """Nothing is wider than the window but what scrolls for itself; letters of pictures keep to their places."""
    browser.open(report, width=width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OUTSIDE) == []
    assert browser.value(OVERLAPPING) == []
    assert browser.value(SMALLEST) >= 12
    colours = [browser.value(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
    paper, ink = (sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) for colour in colours)
    assert (paper < ink) == (scheme == "dark")
