"""The documentation's site is whole: it builds strictly, every page is in it, and pages ask nothing of the network."""

import html
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs_click", "material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        "configs/mkdocs.yml",
    ]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {path.relative_to(REPOSITORY / "docs").with_suffix("") for path in (REPOSITORY / "docs").rglob("*.md")}
    made = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert pages <= made
    menu = (site / "index.html").read_text()
    assert [str(page) for page in sorted(pages) if f'href="{page}.html"' not in menu] == []


def test_everything_public_is_in_the_reference(site):
    reference = (site / "reference" / "python.html").read_text()
    assert [name for name in tg.__all__ if not re.search(rf'id="taskgraph_dnn\.([a-z_]+\.)*{name}"', reference)] == []


def test_the_reference_says_what_people_ask_of_a_result_and_shows_source(site):
    reference = (site / "reference" / "python.html").read_text()
    for name in ("Result.labels", "Result.top", "Result.outputs", "CompiledNetwork.__call__", "layer.with_addition"):
        assert f'id="taskgraph_dnn.{name}"' in reference, name
    functions = [name for name in tg.__all__ if inspect.isfunction(getattr(tg, name))]
    assert reference.count("Source code in") >= len(functions)


def test_files_are_shown_whole(site):
    shown = {"examples.html": sorted((REPOSITORY / "docs" / "examples").glob("*.py"))}
    shown["reference/configuration.html"] = [REPOSITORY / "taskgraph_dnn" / "taskgraph-dnn.yaml"]
    for page, files in shown.items():
        text = html.unescape(re.sub(r"<[^>]+>", "", (site / page).read_text()))
        assert [str(path) for path in files if path.read_text().strip() not in text] == []


def test_every_command_is_in_the_reference(site):
    reference = (site / "reference" / "commands.html").read_text()
    assert [name for name in main.list_commands(None) if f"taskgraph-dnn {name}" not in reference] == []


def test_pages_ask_nothing_of_the_network(site):
    loaded = re.compile(
        r'<(?:script|img|iframe)[^>]*src="(https?:[^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]+)"'
    )
    asked = {(path.name, found) for path in site.rglob("*.html") for found in loaded.findall(path.read_text())}
    assert asked == set()
