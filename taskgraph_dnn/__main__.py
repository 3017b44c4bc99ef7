"""`python -m taskgraph_dnn` is the command `taskgraph-dnn`."""

from taskgraph_dnn.cli import main

if __name__ == "__main__":
    main(prog_name="taskgraph-dnn")
