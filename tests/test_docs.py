"""What README and docs show is true: Python and commands run, page by page, and links lead somewhere."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import dask.config
import pytest
import yaml
from click.testing import CliRunner

import taskgraph_dnn as tg
from taskgraph_dnn import config
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import MissingDependencyError
from tests.clusters import until

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
PAGES = ["README.md", *sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/**/*.md"))]

#: A scheduler that pages show; a cluster of the test's own takes its place.
SHOWN_SCHEDULER = "tcp://127.0.0.1:8786"

#: Libraries of others that pages import, which need not be installed.
OPTIONAL = {"bokeh", "keras", "onnx", "onnxruntime", "pandas", "sklearn", "torch", "zarr"}

LANGUAGES = {"python", "console", "yaml", "text", "toml"}
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page; `why` says why it is not run."""

    page: str
    line: int
    language: str
    code: str
    why: str | None

    def commands(self) -> list[str]:
        joined = self.code.replace("\\\n", " ")
        return [line.removeprefix("$ ").split("  #")[0] for line in joined.splitlines() if line.startswith("$ ")]


def text_of(page: str) -> str:
    """Return the page with the files that it shows in their places."""
    shown = re.compile(r'^--8<-- "(.*)"$', re.M)
    text = shown.sub(lambda match: (REPOSITORY / match[1]).read_text().strip(), (REPOSITORY / page).read_text())
    assert "--8" not in text, f"{page}: a file is not shown as it was meant to"
    return text


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["code"], match["why"])
        for match in _BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
RUN = [page for page in PAGES if any(b.why is None and b.language in ("python", "console") for b in blocks(page))]
COMMANDS = [(block, command) for block in ALL if block.language == "console" for command in block.commands()]


def test_blocks_are_found():
    """Every fence belongs to a block, and every block says what it is."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", text_of(page), re.M)
        assert len(fences) == 2 * len(blocks(page)), page
    assert {block.language for block in ALL} <= LANGUAGES
    assert {"README.md", "docs/index.md"} <= set(RUN)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The files that pages take for given: their commands run in a folder with them."""
    folder = tmp_path_factory.mktemp("given")
    network, images = tg.radixnet(1024, 12, seed=0), tg.digit_images(500, 1024, seed=0)
    tg.write_packed(network, folder / "network.safetensors")
    tg.write_challenge_images(images, folder / "images.tsv.gz")
    tg.write_categories(tg.infer(network, images).compute().categories, folder / "categories.tsv")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    for name in ("before.jsonl", "after.jsonl"):
        (folder / name).symlink_to(REPOSITORY / "tests" / "data" / "smoke.jsonl")
    # In place of the challenge's own files, which are gigabytes: a network of fewer layers, in the same layout.
    with TemporaryDirectory() as layers, tarfile.open(folder / "neuron1024.tar.gz", "w:gz", compresslevel=1) as archive:
        tg.write_challenge_network(network, layers)
        archive.add(layers, "neuron1024")
    (folder / "sparse-images-1024.tsv.gz").symlink_to(folder / "images.tsv.gz")
    (folder / "neuron1024-l120-categories.tsv").symlink_to(folder / "categories.tsv")
    return folder


@pytest.fixture
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, host="127.0.0.1") as cluster:
        yield cluster


@pytest.mark.parametrize("page", RUN)
def test_page_runs(page, given, tmp_path, monkeypatch, request):
    """A page's blocks run, one after the other; the reason of a skip names those whose libraries are not installed."""
    monkeypatch.chdir(tmp_path)
    for path in given.iterdir():
        (tmp_path / path.name).symlink_to(path)
    shown = [block for block in blocks(page) if block.why is None and block.language in ("python", "console")]
    needs_cluster = any(SHOWN_SCHEDULER in block.code for block in shown)
    address = request.getfixturevalue("cluster").scheduler_address if needs_cluster else SHOWN_SCHEDULER
    network = tg.read_packed("network.safetensors")
    names = {"tg": tg, "network": network, "samples": tg.read_images("images.tsv.gz", 1024), "__name__": "page"}
    problems: list[str] = []
    lacking: set[str] = set()
    with dask.config.set({"taskgraph-dnn.job.samples": 500, "taskgraph-dnn.job.layers": 12}), ExitStack() as started:
        for block in shown:
            block = replace(block, code=block.code.replace(SHOWN_SCHEDULER, address))
            makes, needs = words(block)
            problem = f"{page}:{block.line} needs what is left out" if needs & lacking else run(block, names, started)
            if problem:
                problems.append(problem)
                lacking |= {word for word in makes if word not in names and not Path(word).exists()}
    if problems:
        pytest.skip("; ".join(problems))


def words(block: Block) -> tuple[set[str], set[str]]:
    """Return the names and files that a block makes, and those that it needs; a file's name has a dot."""
    if block.language == "console":
        files = {word for command in block.commands() for word in shlex.split(command) if "." in word}
        return files, files
    nodes = list(ast.walk(ast.parse(block.code)))
    files = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and "." in n.value}
    made = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    made |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    made |= {(alias.asname or alias.name).split(".")[0] for n in imports for alias in n.names}
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return made | files, (read - made) | files


def run(block: Block, names: dict[str, object], started: ExitStack) -> str | None:
    """Run a block, and return what it needs that is not installed, if there is something."""
    where = f"{block.page}:{block.line}"
    try:
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, block.page, "exec"), names)
        for command in block.commands() if block.language == "console" else ():
            run_command(command, where, started)
    except MissingDependencyError as error:
        return f"{where}: {error}"
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        return f"{where}: {error}"
    return None


def run_command(command: str, where: str, started: ExitStack) -> None:
    """Run a command as a reader would; those that install or make something are only checked, elsewhere.

    Dask's schedulers and workers stay until the page ends.
    """
    program, *arguments = shlex.split(command)
    if program in ("make", "pip"):
        return
    if program == "taskgraph-dnn":
        result = CliRunner().invoke(main, arguments)
        if result.exit_code and "which is not installed: pip install" in result.output:
            raise MissingDependencyError(result.output.strip())
        assert result.exit_code == 0, f"{where}: {command}: {result.output}{result.exception}"
        return
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": folders}
    if program == "dask" and arguments[0] in ("scheduler", "worker"):
        process = subprocess.Popen([program, *arguments], env=environment, stderr=subprocess.DEVNULL)
        started.callback(process.wait, 60)
        started.callback(process.terminate)
        if arguments[0] == "scheduler":
            until(Path(arguments[arguments.index("--scheduler-file") + 1]).exists)
        return
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, f"{where}: {command}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=lambda b: f"{b.page}:{b.line}")
def test_python_is_python(block):
    compile(block.code, block.page, "exec")


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=lambda b: f"{b.page}:{b.line}")
def test_yaml_has_settings_that_there_are(block):
    known = yaml.safe_load((Path(config.__file__).parent / "taskgraph-dnn.yaml").read_text())["taskgraph-dnn"]
    ours = yaml.safe_load(block.code).get("taskgraph-dnn", {})
    assert ours.keys() <= known.keys()
    assert ours.get("job", {}).keys() <= known["job"].keys()


@pytest.mark.parametrize(
    ("block", "command"), COMMANDS, ids=[f"{block.page}:{block.line} {command}" for block, command in COMMANDS]
)
def test_commands_exist(block, command):
    """Also of those that are not run: programs, subcommands and options are there."""
    words = [word for word in shlex.split(command, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:.*## ", (REPOSITORY / "Makefile").read_text(), re.M)
    elif program == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\[([\w,-]+)\]", command)
        assert {name for names in asked for name in names.split(",")} <= extras.keys()
    elif program == "taskgraph-dnn" or words[:2] == ["dask", "taskgraph-dnn"]:
        found = main
        for argument in arguments:
            if isinstance(found, click.Group) and found.get_command(None, argument):
                found = found.get_command(None, argument)
        known = {name for parameter in found.params for name in parameter.opts} | {"--help", "--version"}
        assert {argument.split("=")[0] for argument in arguments if argument.startswith("--")} <= known
    else:
        assert program in ("dask", "helm", "kubectl", "openssl"), command


def test_the_shown_output_is_the_commands():
    (command,) = [command for block, command in COMMANDS if block.page == "README.md" and "--check" in command]
    output = CliRunner().invoke(main, shlex.split(command)[1:]).output
    # Times change from run to run, and with them the width of the table; tasks, and with them what reductions find
    # where, depend on the machine's cores.
    times, found = "read|prepare|infer|rate", "tasks|a task|reductions|kernel|multiply-adds"
    changing = re.compile(rf"│ ({times}|{found}|  ) |│ +[0-9-]+ │|│ +│")
    lines = [line for line in output.splitlines() if line[0] in "│┃" and not changing.match(line)]
    assert len(lines) >= 6
    shown = {" ".join(line.split()) for line in README.splitlines()}
    for line in lines:
        assert " ".join(line.split()) in shown


def links() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = _BLOCK.sub("", (REPOSITORY / page).read_text())
        found += [(page, target) for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [(page, target) for page, target in found if not target.startswith(("http://", "https://"))]


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page, target):
    name, _, heading = target.partition("#")
    path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
    assert path.exists()
    if heading and path.suffix == ".md":
        titles = re.findall(r"^#+ (.*)", path.read_text(), re.M)
        assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
