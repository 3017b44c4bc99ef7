"""The challenge's rows as a table beside published times, and as a page."""

from collections.abc import Iterator, Sequence

from taskgraph_dnn import challenge
from taskgraph_dnn.benchmarks.challenge.published import PUBLISHED, SYSTEMS, published_rates
from taskgraph_dnn.benchmarks.challenge.rows import Row

_HEAD = ("neurons x layers", "reductions", "read s", "prepare s", "infer s", "edges/s", "multiply-adds", "peak memory")
_ANSWER = ("categories", "verified")
_COLUMNS = (
    "*read* is opening the packed network and reading the images; *prepare* a warm-up of few images, planning, and "
    "what tasks still had to prepare; *infer* the median run, from CSR rows of input to rows of output. The rate is "
    "images x edges of the whole network / *infer*, whatever was left out; *multiply-adds* is the part that was done. "
    "Without reductions the rate is the kernels' speed; what comes on top of that is work that provably changes "
    "nothing. *verified* means that the categories are the official ones, or where there are none those of the other "
    "rows, and that the outputs of 200 images, drawn at random, are those of a float64 reference in scipy."
)


def challenge_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the rows as text, first what the columns are."""
    baseline = next(iter(SYSTEMS))
    return [[*_HEAD, *_ANSWER, *SYSTEMS, f"rate / {baseline}"]] + [_cells(row) for row in rows]


def narrow_tables(rows: Sequence[Row]) -> list[list[list[str]]]:
    """Return the same in three tables, each with what row it is: times, answers, and published times beside ours."""
    table = challenge_table(rows)
    times, answers = range(2, 6), range(6, len(_HEAD) + len(_ANSWER))
    published = (4, *range(len(_HEAD) + len(_ANSWER), len(table[0])))
    return [[[*row[:2], *(row[column] for column in part)] for row in table] for part in (times, answers, published)]


def _cells(row: Row) -> list[str]:
    return [
        f"{row.neurons:,} x {row.layers:,}",
        row.reductions,
        _seconds(row.read_seconds),
        _seconds(row.prepare_seconds),
        _seconds(row.infer_seconds) + _sampled(row),
        f"{row.edges_per_second:.3g}",
        f"{100 * row.multiply_adds_share:.3g}%",
        f"{row.peak_bytes / 2**30:.2f} GiB",
        f"{row.categories:,}{_sampled(row)}",
        _verdict(row),
        *_published(row),
    ]


def _published(row: Row) -> list[str]:
    """Return the published seconds, and how many times the first one's rate the row has."""
    found, rates = PUBLISHED.get((row.neurons, row.layers)), published_rates(row.neurons, row.layers)
    if found is None or rates is None:
        return [""] * (len(SYSTEMS) + 1)
    whole = "" if row.samples_run == challenge.OFFICIAL_SAMPLES else "~"
    return [*(f"{seconds:g}" for seconds in found.seconds), f"{whole}{row.edges_per_second / rates[0]:.3g}"]


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"


def _sampled(row: Row) -> str:
    return f" ({row.samples_run:,} images)" if row.samples_run < row.samples else ""


def _verdict(row: Row) -> str:
    if not row.verified:
        return "NO"
    return "yes" if row.verified_layers == row.layers else f"yes, {row.verified_layers:,} layers"


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what must be known to read the table."""
    yield "Published seconds of inference for 60,000 images: " + "; ".join(
        f"*{name}*: {what}" for name, what in SYSTEMS.items()
    )
    if any(row.samples_run < row.samples for row in rows):
        yield "Rows with a number of images were run on so many only, drawn at random; their rates are of those."
    if any(row.verified_layers < row.layers for row in rows):
        yield "Where *verified* names layers, the reference would have taken too long for more."
    for row in rows:
        for check in row.checks:
            if not check.passed:
                yield f"{row.neurons:,} x {row.layers:,}, {row.reductions}: {check.name}: {check.detail}"


def markdown(rows: Sequence[Row], command: str) -> str:
    """Return the rows, at least one, as a page.

    Args:
        rows: what came out, on one machine.
        command: that made them.
    """
    first = rows[0]
    known = first.machine
    packages = ", ".join(f"{name} {version}" for name, version in known["packages"].items() if version is not None)
    head, *body = ["| " + " | ".join(cells) + " |" for cells in challenge_table(rows)]
    return "\n".join(
        [
            "# The Graph Challenge",
            "",
            f"Made by `{command}` on {known['processor']}, {known['cores']} cores, "
            f"{known['memory_nbytes'] / 2**30:.0f} GiB; Python {known['python']}, {packages}; "
            f"{first.threads} threads, {first.scheduler}.",
            "",
            f"Networks: {_origins(rows, networks=True)}. Images: {_origins(rows, networks=False)}.",
            "",
            _COLUMNS,
            "",
            head,
            "| --- | --- |" + " ---: |" * (len(_HEAD) + len(_ANSWER) + len(SYSTEMS) + 1 - 2),
            *body,
            "",
            *(f"- {note}" for note in notes(rows)),
            "",
            *_conversions(rows),
        ]
    )


def _origins(rows: Sequence[Row], *, networks: bool) -> str:
    """Return which networks, or images, are official, and which are synthetic."""
    official = {row.neurons: row.official_network if networks else row.official_images for row in rows}
    groups = {True: "official", False: f"synthetic (seed {rows[0].seed})"}
    return "; ".join(
        f"{text} at {', '.join(f'{neurons:,}' for neurons, is_so in official.items() if is_so is kind)} neurons"
        for kind, text in groups.items()
        if kind in official.values()
    )


def _conversions(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what making the packed networks took, where that was done."""
    seconds = {row.neurons: row.convert_seconds for row in rows}
    made = [f"{neurons:,} neurons {_seconds(took)} s" for neurons, took in seconds.items() if took is not None]
    if made:
        yield f"Making the packed networks, once: {', '.join(made)}."
        yield ""
