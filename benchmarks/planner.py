"""How well and how fast the built-in planner reads prompts.

    python benchmarks/planner.py [--scenes tests/text/data/scenes.tsv] [--show tuned]

For 50 English and 50 Chinese prompts: the share of things, counts, colours, relations and backgrounds that
are right, and of things found that were not asked for. Prompts of odd number were looked at while the planner
was written ("tuned"), those of even number were not ("held back"). Also the share of the memory's own names
that stay one single thing, and milliseconds for a prompt on one thread. Ends with one line of JSON.
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

SCENES = Path(__file__).resolve().parents[1] / "tests" / "text" / "data" / "scenes.tsv"
HALVES = ("tuned", "held back")
PARTS = ("objects", "counts", "colours", "relations", "background")
_WORDS = {"in-front-of": "front"}
_KNOWN = "in-front-of|front|in|on|above|below|left|right|beside|between|behind"


@dataclass(frozen=True)
class Expected:
    """What a prompt asks for. A thing is ({names}, least, most, colour or None for each name); a relation is
    the readings that count as right, each (subject, word, targets)."""

    prompt: str
    half: str
    language: str
    things: tuple[tuple[dict[str, str | None], int, int], ...]
    relations: tuple[tuple[tuple[str, str, tuple[str, ...]], ...], ...]
    background: str | None


def read(path: Path) -> list[Expected]:
    """The prompts of a table; see the head of `scenes.tsv`."""
    found = []
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    for number, line in enumerate(lines, 1):
        prompt, things, relations, background = line.split("\t")
        found.append(
            Expected(
                prompt,
                HALVES[number % 2 == 0],
                "en" if prompt.isascii() else "zh",
                tuple(_thing(one.strip()) for one in things.split(";")),
                tuple(
                    tuple(_reading(each.strip()) for each in one.split("/")) for one in _relations(relations)
                ),
                background or None,
            )
        )
    return found


def _thing(text: str) -> tuple[dict[str, str | None], int, int]:
    match = re.fullmatch(r"(?:(\d+)(?:-(\d+))? )?(.*)", text)
    assert match
    least = int(match[1] or 1)
    names: dict[str, str | None] = {}
    default = None
    for one in reversed(match[3].split("/")):
        name, _, colour = one.strip().partition(" (")
        default = colour.rstrip(")") or (default if len(match[3].split("/")) == 1 else None)
        names[name] = colour.rstrip(")") or None
    colours = {colour for colour in names.values() if colour}
    if len(colours) == 1 and match[3].endswith(")"):  # "小鸟/鸟 (blue)": a colour at the end holds for all...
        only = colours.pop()
        names = {
            name: colour or (None if _names_colour(name, only) else only) for name, colour in names.items()
        }
    return names, least, int(match[2] or least)


def _names_colour(name: str, colour: str) -> bool:
    from miaobi.text.lexicon import COLOURS

    return any(word in name for words in COLOURS[colour] for word in words)


def _relations(text: str) -> list[str]:
    return [one.strip() for one in text.split(";") if one.strip()]


def _reading(text: str) -> tuple[str, str, tuple[str, ...]]:
    match = re.fullmatch(rf"(.+) ({_KNOWN}) (.+)", text)
    if not match:
        return text, "", ()  # names before a slash share the relation after it
    to = () if match[3] == "-" else tuple(one.strip() for one in match[3].split(","))
    return match[1], _WORDS.get(match[2], match[2]), to


def _readings(
    readings: tuple[tuple[str, str, tuple[str, ...]], ...],
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Readings with their relation filled in: "a/b on c" is "a on c" or "b on c", "a on b/c" likewise."""
    full: list[tuple[str, str, tuple[str, ...]]] = []
    bare: list[str] = []
    for subject, word, to in readings:
        if word:
            full += [(one, word, to) for one in (*bare, subject)]
            bare = []
        else:
            bare.append(subject)
    if bare and full:
        full += [(full[0][0], full[0][1], (one,)) for one in bare]
    return full


def judge(expected: Expected, scene: Any) -> dict[str, tuple[int, int]]:
    """{part: (right, asked)}; counts and colours are judged for the things that were found."""
    free = list(scene.things)
    right = dict.fromkeys((*PARTS, "extra"), 0)
    asked = {"objects": len(expected.things), "relations": len(expected.relations), "background": 1}
    asked |= {"counts": 0, "colours": 0, "extra": len(free)}
    for names, least, most in expected.things:
        found = next((one for name in names for one in free if one.concept.casefold() == name), None)
        if found is None:
            continue
        free.remove(found)
        right["objects"] += 1
        asked["counts"] += 1
        asked["colours"] += 1
        right["counts"] += least <= found.count <= most
        right["colours"] += names[found.concept.casefold()] == found.colour
    right["extra"] = len(free)
    held = {
        (
            thing.concept.casefold(),
            thing.relation.word,
            frozenset(scene.things[i].concept.casefold() for i in thing.relation.to),
        )
        for thing in scene.things
        if thing.relation
    }
    for readings in expected.relations:
        right["relations"] += any(
            (subject, word, frozenset(to)) in held for subject, word, to in _readings(readings)
        )
    right["background"] = (scene.background or None) == expected.background
    return {part: (int(right[part]), asked[part]) for part in (*PARTS, "extra")}


def names_kept(memory: Any, encoder: Any) -> dict[str, float]:
    """The share of the memory's own names, in both languages, that stay one single thing."""
    from miaobi.text.planner import plan

    return {
        language: sum(plan(one[label], memory, encoder).simple for one in memory.concepts if one[label])
        / sum(bool(one[label]) for one in memory.concepts)
        for language, label in (("en", "label_en"), ("zh", "label_zh"))
    }


@click.command(help=__doc__)
@click.option(
    "--scenes", type=click.Path(path_type=Path, exists=True), default=SCENES, help="Table of prompts."
)
@click.option(
    "--show", type=click.Choice(["tuned", "all"]), help="Also print prompts that were read wrongly."
)
@click.option(
    "--runs", type=click.IntRange(1), default=5, show_default=True, help="Times to read each prompt."
)
def main(scenes: Path, show: str | None, runs: int) -> None:
    from miaobi import load
    from miaobi.text.planner import plan

    pipe = load(threads=1)
    expected = read(scenes)
    started = time.perf_counter()
    plan("two cats and a dog", pipe.memory, pipe._encoder)
    first_ms = (time.perf_counter() - started) * 1000
    times, sums = [], {}
    for _ in range(runs):
        for one in expected:
            started = time.perf_counter()
            plan(one.prompt, pipe.memory, pipe._encoder)
            times.append((time.perf_counter() - started) * 1000)
    for one in expected:
        scene = plan(one.prompt, pipe.memory, pipe._encoder)
        scores = judge(one, scene)
        if (
            show
            and show in (one.half, "all")
            and any(a != b for part, (a, b) in scores.items() if part != "extra")
        ):
            click.echo(f"{one.prompt}\n    {scores}\n    {scene.to_json()}")
        for part, (right, asked) in scores.items():
            for group in ((one.half, one.language), (one.half, "both")):
                total = sums.setdefault(group, {}).setdefault(part, [0, 0])
                total[0] += right
                total[1] += asked
    figures: dict[str, float] = {}
    click.echo(f"{'half':<10} {'language':<9}" + "".join(f"{part:>12}" for part in (*PARTS, "extra")))
    for half in HALVES:
        for language in ("en", "zh", "both"):
            shares = {part: right / max(asked, 1) for part, (right, asked) in sums[half, language].items()}
            row = "".join(f"{100 * share:>11.1f}%" for share in shares.values())
            click.echo(f"{half:<10} {language:<9}{row}")
            for part, share in shares.items():
                figures[f"{half.replace(' ', '_')}_{language}_{part}"] = share
    kept = names_kept(pipe.memory, pipe._encoder)
    figures |= {f"names_kept_{language}": share for language, share in kept.items()}
    figures |= {"first_ms": first_ms, "p50_ms": median(times), "p95_ms": quantiles(times, n=20)[-1]}
    for name in ("names_kept_en", "names_kept_zh", "first_ms", "p50_ms", "p95_ms"):
        click.echo(f"{name:<16} {figures[name]:10.4f}")
    click.echo(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
