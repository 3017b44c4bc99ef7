"""What the README shows is true: its Python runs, its commands are commands, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from taskgraph_dnn.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "logical nodes" in capsys.readouterr().out
    assert (tmp_path / "graph.svg").exists()


def test_there_is_python():
    assert blocks("python")


def shown_commands() -> list[list[str]]:
    text = "".join(blocks("console")).replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("command", shown_commands(), ids=" ".join)
def test_commands_exist(command):
    program, *arguments = command
    if program == "make":
        assert re.search(rf"^{arguments[0]}:.*## ", (REPOSITORY / "Makefile").read_text(), re.M)
        return
    assert program == "taskgraph-dnn"
    subcommand = main.get_command(None, arguments[0])
    known = {name for parameter in subcommand.params for name in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_the_shown_output_is_the_commands():
    from click.testing import CliRunner

    (command,) = [command for command in shown_commands() if "--check" in command]
    output = CliRunner().invoke(main, command[1:]).output
    # Times change from run to run, and with them the width of the table; tasks, and with them what reductions find
    # where, depend on the machine's cores.
    times, found = "read|prepare|infer|rate", "tasks|a task|reductions|kernel|multiply-adds"
    changing = re.compile(rf"│ ({times}|{found}|  ) |│ +[0-9-]+ │|│ +│")
    lines = [line for line in output.splitlines() if line[0] in "│┃" and not changing.match(line)]
    assert len(lines) >= 6
    shown = {" ".join(line.split()) for line in README.splitlines()}
    for line in lines:
        assert " ".join(line.split()) in shown


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(target):
    assert (REPOSITORY / target).exists()
