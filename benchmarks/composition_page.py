"""docs/composition.md, written from the journals of benchmarks/composition.py."""

from typing import Any

from miaobi.accelerate.recipe import from_tables

Line = dict[str, Any]
SIGNS = {"helps": "✓", "no effect": "=", "hurts": "✗", "unclear": "?"}

INTRODUCTION = """# What steps of a recipe do together

Every step alone, and every pair, on Miaobi's own bundle and on small diffusers pipelines with random weights.
The figure of a cell is (time with the second step) / (time without it), both drawing in turns in one process:

| sign | meaning |
|---|---|
| ✓ 0.70 | helps: the 95 % interval is wholly below 1 |
| = 1.00 | no effect: the interval is within 3 % of 1 |
| ✗ 1.30 | **hurts**: the interval is wholly above 1 |
| ? 1.02 | unclear: the interval holds 1 and is too wide to tell |
| · | refused before anything is changed; the reasons stand below each table |
| ! | the tool failed |

These figures hold for models like these on a machine like this one. `check` reads them
(`miaobi/accelerate/composition.json`) only where the CPU has the same deciding instructions, about as many
CPUs, and the model is of the same build and about the same size; there it refuses steps that hurt, and steps
for speed alone that do nothing, with the figure. `apply(..., measured=False)` takes them all the same.
Elsewhere nothing is known and nothing refused: run the command below.

Not in the tables: two steps of one kind, which are always refused; `Distill`, `TinyDecoder` and fine-tuning,
which need training or another model's files. Pruned and shared weights were not fine-tuned: their PSNR is a
floor. Random weights show speed and closeness, nothing about how pictures look.

    python benchmarks/composition.py -m MODEL

"""


def page(journals: list[list[Line]], others: list[Line]) -> str:
    """The whole page; each journal is a head and its lines. Of `others` only `check` knows the figures."""
    sections = "".join(_section(head, lines) for head, *lines in journals)
    return INTRODUCTION + _slower(journals) + sections + _others(others)


def _others(groups: list[Line]) -> str:
    rows = "\n".join(
        f"- {one['name']}, {one['model']['parameters'] / 1e6:.1f} M parameters, "
        f"{one['machine']['cpus']} CPUs ({', '.join(one['machine']['features'])}), {one['date']}: "
        f"{len(one['rows'])} timed"
        for one in groups
    )
    return f"## Known to `check`, measured earlier\n\n{rows}\n" if rows else ""


def label(table: Line | None) -> str:
    """A step in the words of a table's head, such as "quantize int8-dynamic"."""
    if table is None:
        return "alone"
    step = from_tables([dict(table)])[0]
    values = [value for key, value in table.items() if key != "kind"]
    return " ".join([step.name, *(f"{one:g}" if isinstance(one, float) else str(one) for one in values)])


def _pair(line: Line) -> str:
    return f"{label(line['first'])} | {label(line['second'])}"


def _span(line: Line) -> str:
    return f"{line['ratio']:.2f} [{line['low']:.2f}, {line['high']:.2f}] (n={line['count']})"


def _slower(journals: list[list[Line]]) -> str:
    """Quantised but slower, over all pipelines: steps alone, as pairs stand in each section."""
    rows = [
        f"| {head['name']} | {label(line['second'])} | {_span(line)} | {line['psnr_db']:.1f} |"
        for head, *lines in journals
        for line in lines
        if line["first"] is None
        and line["second"]["kind"] in ("quantize", "precision")
        and line["verdict"] == "hurts"
    ]
    if not rows:
        return ""
    head = "| pipeline | step | times the time | PSNR dB |\n|---|---|---|---|\n"
    return "## Narrower numbers, but slower\n\n" + head + "\n".join(rows) + "\n\n"


def _section(head: Line, lines: list[Line]) -> str:
    machine, versions = head["machine"], head["versions"]
    model = head["model"]
    rounds = " or ".join(str(one) for one in sorted({line["count"] for line in lines if "ratio" in line}))
    told = [
        f"## {head['name']}",
        f"{model['kind']}, {model['family']}, {model['backbone']}, "
        f"{model['parameters'] / 1e6:.1f} M parameters; as it is: {head['runs']}. "
        f"Measured {head['date']} on {head['system']}, {machine['cpus']} CPUs "
        f"({', '.join(machine['features'])}), {rounds or 'no'} rounds, "
        f"load average before it {head['load']:g}; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        _matrix(lines),
        _list("Hurts, or does nothing", [one for one in lines if one["verdict"] in ("hurts", "no effect")]),
        _list("Helps", [one for one in lines if one["verdict"] == "helps"]),
        _reasons("Refused", _refused(lines)),
        _reasons("Failed", [one for one in lines if one["verdict"] == "failed"]),
    ]
    return "\n\n".join(one for one in told if one) + "\n\n"


def _matrix(lines: list[Line]) -> str:
    cells = {(label(line["first"]), label(line["second"])): line for line in lines}
    timed = [key for key, line in cells.items() if line["verdict"] != "refused"]
    firsts = list(dict.fromkeys(first for first, _ in timed))
    seconds = [one for one in dict.fromkeys(two for _, two in cells) if one in {two for _, two in timed}]
    if not timed:
        return "Every pair is refused."
    rows = ["| first \\ second | " + " | ".join(seconds) + " |", "|---" * (len(seconds) + 1) + "|"]
    for first in firsts:
        rows.append(
            f"| **{first}** | " + " | ".join(_cell(cells.get((first, one))) for one in seconds) + " |"
        )
    return "\n".join(rows)


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    if "ratio" not in line:
        return "·" if line["verdict"] == "refused" else "!"
    text = f"{SIGNS[line['verdict']]} {line['ratio']:.2f}"
    return f"**{text}**" if line["verdict"] == "hurts" else text


def _list(title: str, lines: list[Line]) -> str:
    if not lines:
        return ""
    rows = ["| first | second | times the time | ms a picture | PSNR dB |", "|---|---|---|---|---|"]
    for line in sorted(lines, key=lambda one: -float(one["ratio"])):
        psnr = "identical" if line["psnr_db"] >= 100 else f"{line['psnr_db']:.1f}"
        rows.append(f"| {_pair(line)} | {_span(line)} | {line['ms']:.1f} | {psnr} |")
    return f"### {title}\n\n" + "\n".join(rows)


def _refused(lines: list[Line]) -> list[Line]:
    """Refused steps, alone or after one that is itself not refused."""
    bad = [label(one["second"]) for one in lines if one["first"] is None and one["verdict"] == "refused"]
    return [one for one in lines if one["verdict"] == "refused" and label(one["first"]) not in bad]


def _reasons(title: str, lines: list[Line]) -> str:
    found: dict[str, list[str]] = {}
    for line in lines:
        pair = f"{label(line['second'])}" + (f" after {label(line['first'])}" if line["first"] else "")
        found.setdefault(line["reason"], []).append(pair)
    alone = [f"- {reason} ({len(pairs)}: {_few(pairs)})" for reason, pairs in found.items()]
    return f"### {title}\n\n" + "\n".join(alone) if alone else ""


def _few(pairs: list[str]) -> str:
    return ", ".join(pairs[:3]) + (" …" if len(pairs) > 3 else "")
