"""Tokenizers of the classes diffusers pipelines use, made on the spot: no vocabulary is downloaded.

The first 512 entries of the CLIP vocabulary (the 256 bytes, and each as the end of a word) are those of the
original one in its order, and its two special tokens are the text encoder's last rows, as they are there.
So a prompt of single letters ("a b c") has the same ids here and in a program with the original vocabulary.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE

# What the vocabularies learn their words from: subjects of prompts, and Qwen-Image's own template.
CORPUS = (
    "a photo of a red apple on a green table",
    "a colorful parrot flies over the garden",
    "a black cat and a white dog sleep in the warm sun",
    "an old house by the sea at night, oil painting",
    "blurry, low quality, ugly",
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:",
    "system",
    "user",
    "assistant",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes, in the order of CLIP's vocabulary.

    Printable bytes stand for themselves, the others for letters from U+0100 on (Radford et al. 2019, GPT-2).
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]


def clip_tokenizer(vocabulary: int, *, room: int = 512) -> Any:
    """A CLIPTokenizer for a text encoder with `vocabulary` rows; the last two are its start and end token.

    At most `room` learned entries follow the 512 of bytes. Sentences are cut and padded at 77 tokens.
    """
    from transformers import CLIPTokenizer

    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP_WORD), "removed", invert=True), pre_tokenizers.ByteLevel(False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=512 + min(room, vocabulary - 514),
        initial_alphabet=byte_letters(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    model.train_from_iterator([text.lower() for text in CORPUS], trainer)
    state = learned(model)
    letters = byte_letters()
    entries = letters + [letter + "</w>" for letter in letters]
    entries += [entry for entry in state["vocab"] if entry not in set(entries)]
    entries = entries[: vocabulary - 2]
    ids = {entry: number for number, entry in enumerate(entries)}
    merges = [tuple(pair) for pair in state["merges"] if "".join(pair) in ids]
    ids |= {"<|startoftext|>": vocabulary - 2, "<|endoftext|>": vocabulary - 1}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77)


def qwen_tokenizer() -> Any:
    """A Qwen2Tokenizer with a chat template; `len()` of it is the number of rows its text encoder needs."""
    from transformers import Qwen2Tokenizer

    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(CORPUS, trainer)
    state = learned(model)
    return Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(pair) for pair in state["merges"]],
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


def t5_tokenizer() -> Any:
    """A T5Tokenizer with ids 0 padding, 1 end and 2 unknown, as T5's text encoder expects them."""
    from transformers import T5Tokenizer

    words = sorted({word.strip(",:").lower() for text in CORPUS for word in text.split()})
    letters = [chr(code) for code in range(32, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -8.0) for letter in letters] + [("▁" + word, -4.0) for word in words if word]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=512)


def learned(tokenizer: Tokenizer) -> dict[str, Any]:
    """Vocabulary in the order of its ids, and merges, of a trained byte-pair tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return {"vocab": dict(sorted(model["vocab"].items(), key=lambda item: item[1])), "merges": merges}


def write_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` of a CLIPTokenizer into a folder, as older releases read them."""
    state = learned(tokenizer.backend_tokenizer)
    (folder / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in state["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
