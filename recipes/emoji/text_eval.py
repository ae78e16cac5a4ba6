"""How often a prompt finds its concept: names, held-back keywords, coloured and wordy captions, and
retrieval_test.tsv.

`python recipes/emoji/text_eval.py --text runs/text --emoji data/emoji` prints a table and ends with one JSON
line. Beside held-back keywords stands what who knows them all would find: one in k of those said of k
concepts. With `--teachers` it also asks the sentence encoders that the text encoder was taught by, 20 and 50
times as large, for the held-back keywords (needs text-requirements.txt).
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from sources import HERE

from miaobi.colours import COLOURS
from miaobi.errors import DataError, MiaobiError
from miaobi.runtimes.onnx import OnnxModel
from miaobi.text.encoder import TextEncoder
from miaobi.train.data import Record, load_dataset
from miaobi.train.text_keys import accuracy, build_keys, concept_texts

Query = tuple[str, list[int]]
HELD_BACK = "held-back keywords"


def read_tests(path: Path, slugs: Sequence[str]) -> list[Query]:
    """Prompts and the numbers of their acceptable concepts; DataError where one is unknown."""
    number = {slug: i for i, slug in enumerate(slugs)}
    found = []
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            prompt, _, right = line.partition("\t")
            if unknown := [slug for slug in right.split(",") if slug not in number]:
                raise DataError(
                    f"{path}: {prompt!r} names unknown concepts {', '.join(unknown)}; correct the line"
                )
            found.append((prompt, [number[slug] for slug in right.split(",")]))
    return found


def query_sets(
    concepts: Sequence[Record], heldout: dict[str, dict[str, str]], tests: list[Query]
) -> dict[str, list[Query]]:
    """The prompts asked, by the name of their row in the table."""
    sets: dict[str, list[Query]] = {}
    shared = Counter(tag for record in concepts for tag in {*record.tags_en, *record.tags_zh})
    same: dict[str, list[int]] = {}
    for i, record in enumerate(concepts):
        for name in (record.label_en, record.label_zh):
            same.setdefault(name.lower(), []).append(i)
    for language in ("en", "zh"):
        names = [getattr(record, f"label_{language}") for record in concepts]
        sets[f"names, {language}"] = [(name, same[name.lower()]) for name in names]
        held = [
            (heldout[record.concept][language], [i])
            for i, record in enumerate(concepts)
            if language in heldout.get(record.concept, {})
        ]
        sets[f"{HELD_BACK}, {language}"] = held
        sets[f"{HELD_BACK} of one concept alone, {language}"] = [q for q in held if shared[q[0]] == 1]
        coloured = []
        for i, record in enumerate(concepts):
            colour = list(COLOURS.values())[i % len(COLOURS)]
            plain = not any(
                word in names[i].lower() for one in COLOURS.values() for word in (*one.en, *one.zh)
            )
            if plain and record.category in (
                "Animals & Nature",
                "Food & Drink",
                "Objects",
                "Travel & Places",
                "Activities",
            ):
                text = (
                    f"a cute {colour.en[0]} {names[i]}"
                    if language == "en"
                    else f"一个可爱的{colour.zh[0]}的{names[i]}"
                )
                coloured.append((text, same[names[i].lower()]))
        sets[f"coloured names, {language}"] = coloured
        chinese = [any("㐀" <= c <= "鿿" for c in prompt) for prompt, _ in tests]
        sets[f"retrieval_test.tsv, {language}"] = [
            q for q, zh in zip(tests, chinese, strict=True) if zh == (language == "zh")
        ]
    return {name: queries for name, queries in sets.items() if queries}


def knowing_all(
    concepts: Sequence[Record], sets: Mapping[str, list[Query]]
) -> Iterator[tuple[str, float, float]]:
    """How well held-back keywords could be found at all, by taking one of the concepts that emojibase says
    each of, held back or not, by chance: row of the table, share found first, share among five.
    """
    said = Counter(tag for record in concepts for tag in {*record.tags_en, *record.tags_zh})
    for name, queries in sets.items():
        if name.startswith(HELD_BACK):
            of = np.array([said[prompt] for prompt, _ in queries])
            yield name, round(float((1 / of).mean()), 4), round(float(np.minimum(5 / of, 1).mean()), 4)


def by_teachers(
    concepts: Sequence[Record], heldout: dict[str, dict[str, str]], sets: Mapping[str, list[Query]]
) -> Iterator[tuple[str, str, float, float]]:
    """How well the teachers find held-back keywords by the mean of a concept's texts: teacher, row of the
    table, share found first, share among five.
    """
    import teachers

    texts = concept_texts(concepts, heldout)
    for teacher, languages in (("minilm", ("en",)), ("use", ("en", "zh"))):
        encode = getattr(teachers, teacher)
        for name, queries in sets.items():
            language = name[-2:]
            if not name.startswith(HELD_BACK) or language not in languages:
                continue
            ours = [{t: w for t, w in one.items() if t.isascii() == (language == "en")} for one in texts]
            flat = [(i, text, weight) for i, one in enumerate(ours) for text, weight in one.items()]
            vectors = encode([text for _, text, _ in flat])
            means = np.zeros((len(concepts), vectors.shape[1]), np.float32)
            np.add.at(means, [i for i, *_ in flat], vectors * np.array([[w] for *_, w in flat], np.float32))
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-8)
            scores = encode([prompt for prompt, _ in queries]) @ means.T
            better = [(row > row[right[0]]).sum() for row, (_, right) in zip(scores, queries, strict=True)]
            yield teacher, name, *(round(float(np.mean(np.array(better) < k)), 4) for k in (1, 5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text",
        type=Path,
        default=Path("runs/text"),
        help="folder with tokenizer.json and text.onnx (default: %(default)s)",
    )
    parser.add_argument(
        "--emoji", type=Path, default=Path("data/emoji"), help="what build.py made (default: %(default)s)"
    )
    parser.add_argument(
        "--heldout-tags", type=Path, default=HERE / "heldout_tags.json", help="keywords kept out of training"
    )
    parser.add_argument("--teachers", action="store_true", help="also ask the teachers")
    parser.add_argument("--misses", action="store_true", help="print what went wrong in retrieval_test.tsv")
    options = parser.parse_args(arguments)
    try:
        records = {record.concept: record for record in load_dataset(options.emoji).records}
        slugs = sorted(records)
        concepts = [records[slug] for slug in slugs]
        heldout = json.loads(options.heldout_tags.read_text("utf-8"))
        tests = read_tests(HERE / "retrieval_test.tsv", slugs)
        encoder = TextEncoder(
            options.text / "tokenizer.json", OnnxModel(options.text / "text.onnx", threads=1)
        )
        keys, key_concept = build_keys(concepts, heldout, encoder)
        rows, wrong = {}, []
        print(
            f"{len(keys)} keys of {len(concepts)} concepts\n\n"
            "| prompts | number | first | among five |\n|---|---|---|---|"
        )
        sets = query_sets(concepts, heldout, tests)
        for name, queries in sets.items():
            first, five, misses = accuracy(encoder, keys, key_concept, queries)
            rows[name] = {"prompts": len(queries), "top1": round(first, 4), "top5": round(five, 4)}
            wrong += misses if name.startswith("retrieval") else []
            print(f"| {name} | {len(queries)} | {first:.1%} | {five:.1%} |")
        others = [("who knows all", *row) for row in knowing_all(concepts, sets)]
        others += by_teachers(concepts, heldout, sets) if options.teachers else ()
        for whose, name, first, five in others:
            rows[f"{whose}: {name}"] = {"prompts": len(sets[name]), "top1": first, "top5": five}
            print(f"| {whose}: {name} | {len(sets[name])} | {first:.1%} | {five:.1%} |")
        started = time.perf_counter()
        for prompt, _ in tests:
            encoder([prompt])
        rows["ms_per_prompt"] = round((time.perf_counter() - started) / len(tests) * 1000, 3)
        for prompt, found in wrong if options.misses else []:
            print(f"  {prompt}: {', '.join(slugs[i] for i in found)}")
    except MiaobiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
