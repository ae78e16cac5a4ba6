"""The planner that is built in: prompts to scenes by longest match over the concepts of a memory."""

import re
from weakref import WeakKeyDictionary

from miaobi.text.asides import without_asides
from miaobi.text.chinese import Chinese
from miaobi.text.draft import Draft, Index, Look, key
from miaobi.text.encoder import TextEncoder
from miaobi.text.english import English
from miaobi.text.memory import Memory
from miaobi.text.prompt import clean_prompt
from miaobi.text.scene import Scene, has_han

_INDICES: WeakKeyDictionary[Memory, Index] = WeakKeyDictionary()
_ARTICLE = re.compile(r"^(an?|the) ", re.IGNORECASE)
_TONE = re.compile(
    r"[,， ]*((medium-)?(light|dark)|medium) skin tone|[,， ]*(中等|较)-?[浅深]?肤色", re.IGNORECASE
)


def plan(prompt: str, memory: Memory, encoder: TextEncoder) -> Scene:
    """The scene that a prompt in English or Chinese describes.

    A prompt that is a name of the memory, or names one single thing without a number, place or relation,
    gives a scene of one thing whose words are the whole prompt (its first 80 characters). The index of names
    is built on the first call for a memory.

    Raises:
        InputError: the prompt is no text, too long or empty.
    """
    text, _ = clean_prompt(prompt)
    index = _INDICES.get(memory)
    if index is None:
        index = _INDICES[memory] = Index.build(memory)
    plain = _TONE.sub("", text).strip()
    if (
        not plain
        or index.listed(plain)
        or index.whole & {key(text), key(plain), key(_ARTICLE.sub("", plain))}
    ):
        return Draft().scene(text)
    plain = without_asides(plain)
    if not plain or key(_ARTICLE.sub("", plain)) in index.whole:
        return Draft().scene(text)
    reader = Chinese if has_han(plain) else English
    return reader(plain, index, Look(encoder)).read().scene(text)
