"""The kernel benchmark's report as tables, and as a page; and what other pages share with it."""

from typing import Any

#: What auto takes should reach this part of the best kernel's rate.
LEAST_OF_OURS = 0.95


def rate_table(report: dict[str, Any]) -> list[list[str]]:
    """Return rates in 1e9 multiply-adds a second, first what the columns are; what is fastest stands in asterisks."""
    timed = [t for case in report["cases"] for t in case["contenders"]]
    ours = list(dict.fromkeys(t["name"] for t in timed if t["kind"] == "ours"))
    return [["case", *ours, "auto", *report["peers"], "sgemm"]] + [
        _rate_row(case, ours, report) for case in report["cases"]
    ]


def _rate_row(case: dict[str, Any], ours: list[str], report: dict[str, Any]) -> list[str]:
    rates: dict[tuple[str, str], float] = {}
    for t in case["contenders"]:
        if t["threads"] == report["threads"]:
            rates[t["kind"], t["name"]] = max(t["rate"], rates.get((t["kind"], t["name"]), 0.0))
    best = max(rate for (kind, _), rate in rates.items() if kind != "ceiling")
    absent = dict.fromkeys(case["left_out"], "left out") | dict.fromkeys(report["missing"], "missing")

    def cell(kind: str, name: str) -> str:
        if (kind, name) not in rates:
            return absent.get(name, "") if case["best_peer"] else ""
        text = f"{rates[kind, name] / 1e9:.1f}"
        return f"**{text}**" if rates[kind, name] == best else text

    auto = case["auto"]["kernel"]
    ours_and_auto = *(cell("ours", name) for name in ours), f"{auto} {cell('ours', auto).strip('*')}"
    return [case["name"], *ours_and_auto, *(cell("peer", name) for name in report["peers"]), cell("ceiling", "sgemm")]


def ratio_table(report: dict[str, Any]) -> list[list[str]]:
    """Return what auto's choice is worth, first what the columns are."""
    scaling = f"{report['threads']} threads / 1"
    ratios = "auto / best peer", "auto / peer, one call", "auto / best of ours", "auto / sgemm", scaling
    rows = [["case", "auto", "best peer", *ratios, "others"]]
    for case in report["cases"]:
        auto = case["auto"]
        names = "to_best_peer", "to_best_peer_in_one_call", "to_best_of_ours", "to_sgemm", "to_one_thread"
        cells = [case["name"], auto["kernel"], case["best_peer"] or "", *(_ratio(auto[name]) for name in names)]
        if auto["to_best_of_ours"]["median"] < LEAST_OF_OURS:
            cells[5] += ", too low"
        rows.append([*cells, f"{case['used_by_others']:.0%}"])
    return rows


def _ratio(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    machine, threads = report["machine"], report["threads"]
    left_out = {f"{name}: {why}" for case in report["cases"] for name, why in case["left_out"].items()}
    return "\n".join(
        [
            "# Kernels",
            "",
            f"Made by `make bench-kernels`, {report['date']}, on {made_on(machine)}. "
            f"Copying: {report['copied_bytes_per_second'] / 1e9:.1f} GB/s (each byte is read once and written once).",
            "",
            f"One layer, {threads} threads, float32; {report['rounds']} rounds, in which every contender runs once, in "
            "random order. Rates are edges x samples / seconds of the median round, in 1e9 multiply-adds a second, "
            "whatever a format computes besides. Ours include bias, relu and the flags of living samples; peers "
            "compute the product alone, in the fastest of their formulations: one call on all samples, or 64 of them a "
            "call, with their own threads or from two of Python's. *auto* is the kernel that a plan takes; "
            "*sgemm* is numpy's product of two matrices of 1,024 x 1,024. In *push* cases inputs are CSR rows, a tenth "
            "of them nonzero: *tile* makes them dense first, and edges of zero inputs count.",
            "",
            *markdown_table(rate_table(report)),
            "",
            f"Ratios of rates, within rounds: median, and 10th to 90th percentile. *One call* leaves peers only "
            f"that formulation, which is what their users write. *auto / best of ours* is to be "
            f"{LEAST_OF_OURS} or more. *others* is what other processes used of the machine's processors meanwhile.",
            "",
            *markdown_table(ratio_table(report)),
            "",
            *(f"- {name} is missing: {why}" for name, why in report["missing"].items()),
            *(f"- Left out, {why}" for why in sorted(left_out)),
            "",
        ]
    )


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines of a page; the first says what the columns are."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "| --- |" + " ---: |" * (len(rows[0]) - 1), *body]


def made_on(machine: dict[str, Any]) -> str:
    """Return what `timing.machine` found, as a line of a page."""
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items() if found is not None)
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_nbytes'] / 2**30:.0f} GiB; "
        f"Python {machine['python']}, {packages}"
    )
