"""The autoregressive transformer that also captions: image tokens first, words after.

The sequence is a start, the picture's tokens, a token that asks for a language, words, and their end. Start
and picture all see each other, words see what is before them: a prefix language model, as in Beyer et al.
2024, "PaliGemma" (arXiv:2407.07726). Blocks, norm and the embedding of image tokens are those that draw; the
embedding of words is also their output layer (Press & Wolf 2017, arXiv:1608.05859).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.captioning import END, LANGUAGES, MOST_WORDS, write_words
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig
from miaobi.models.backbone import BackboneConfig
from miaobi.models.layers import patchify


class Captioner(Autoregressive):
    """An `Autoregressive` whose weights also turn a picture into words of the text encoder's tokenizer."""

    def __init__(self, backbone: BackboneConfig, config: AutoregressiveConfig) -> None:
        super().__init__(backbone, config)
        if not config.captioning or config.words < 1:
            raise ValueError(
                f"captioning = {config.captioning} and words = {config.words} must be above 0 for a model "
                "that captions; training fills in words"
            )
        self.start = nn.Parameter(torch.randn(1, backbone.width) * 0.02)
        self.words = nn.Embedding(config.words + len(LANGUAGES), backbone.width)
        """Word tokens, then the tokens that ask for a language."""
        nn.init.normal_(self.words.weight, std=0.02)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, heads and values of a head in the cache of `say`."""
        return self.backbone.depth, self.config.kv_heads, self.backbone.width // self.backbone.heads

    def own_weights(self) -> dict[str, Tensor]:
        """Those that an `Autoregressive` has not, by name."""
        return {name: self.state_dict()[name] for name in ("start", "words.weight")}

    def _seen(self, latents: Tensor) -> Tensor:
        """Start and picture (B, 1 + tokens, width), from standardised latents (B, C, h, w)."""
        tokens = self.input(patchify(latents, self.backbone.patch)) + self.place
        return torch.cat([self.start.expand(len(latents), 1, -1).to(tokens.dtype), tokens], dim=1)

    def _word_logits(self, x: Tensor) -> Tensor:
        logits: Tensor = F.linear(self.norm(x), self.words.weight[: self.config.words])
        return logits

    def say(
        self, latents: Tensor, ids: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of captioning: first the start and the picture together, then one word after the other.

        Args:
            latents: (B, C, h, w), standardised.
            ids: (B, N) int64, word tokens; where start and picture are read, any.
            places: (N,) int64, in the sequence: 0 the start, 1 … tokens the picture, then words.
            keys, values: the cache so far (B, depth, kv_heads, M, d); M is 0 at first.

        Returns:
            logits (B, words) of the word after the last place, and the cache with these places.
        """
        seen = self._seen(latents)
        last = seen.shape[1] - 1
        x = torch.where(places[:, None] > last, self.words(ids), seen[:, places.clamp(max=last)])
        past = list(zip(keys.unbind(1), values.unbind(1), strict=True))
        x, caches = self._run(x, self.positions(places - 1), x.new_zeros(1, 1, 1, 1), past)
        both = [torch.stack([cache[part] for cache in caches], dim=1) for part in (0, 1)]
        return self._word_logits(x[:, -1]), both[0], both[1]

    def caption_logits(self, latents: Tensor, ids: Tensor, language: Tensor) -> Tensor:
        """Logits (B, L, words) of each of the words `ids` (B, L) int64 after those before it, in one pass.

        Args:
            latents: (B, C, h, w), standardised.
            language: (B,) int64 places in LANGUAGES.
        """
        asked = (self.config.words + language)[:, None]
        seen = self._seen(latents)
        x = torch.cat([seen, self.words(torch.cat([asked, ids[:, :-1]], dim=1)).to(seen.dtype)], dim=1)
        places = torch.arange(x.shape[1], device=x.device)
        # all see start and picture; a word also sees itself and the words before it
        visible = (places[None] < seen.shape[1]) | (places[None] <= places[:, None])
        mask = (visible.float() - 1)[None, None] * 1e4
        x, _ = self._run(x, self.positions(places - 1), mask)
        return self._word_logits(x[:, seen.shape[1] :])

    def caption_loss(self, latents: Tensor, ids: Tensor, language: Tensor) -> Tensor:
        """Cross-entropy per word token, in nats, the token that ends a caption included; a scalar.

        Args:
            latents: (B, C, h, w), standardised.
            ids: (B, L) int64 captions, each followed by at least one `END`.
            language: (B,) int64 places in LANGUAGES.
        """
        logits = self.caption_logits(latents, ids, language).float()
        nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
        counted = F.pad(ids[:, :-1] != END, (1, 0), value=True)  # up to the first END
        return (nats * counted).sum() / counted.sum()

    @torch.no_grad()
    def caption(self, latents: Tensor, language: str = "en", most: int = MOST_WORDS) -> list[list[int]]:
        """Word tokens of each of the pictures (B, C, h, w), standardised latents: the likeliest at each step.

        Args:
            language: one of LANGUAGES.
            most: word tokens of a caption at most.

        Raises:
            InputError: the language is unknown.
        """
        on, (depth, heads, size) = latents.device, self.cache_shape
        keys = values = latents.new_zeros(len(latents), depth, heads, 0, size)

        def say(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
            nonlocal keys, values
            asked, where = (torch.from_numpy(part).to(on) for part in (ids, places))
            logits, keys, values = self.say(latents, asked, where, keys, values)
            return np.asarray(logits.float().cpu().numpy())

        return write_words(say, len(latents), self.backbone.tokens, self.config.words, language, most)


def autoregressive(backbone: BackboneConfig, config: AutoregressiveConfig) -> Autoregressive:
    """The model that a configuration describes: one that captions where `captioning` is above 0."""
    return (Captioner if config.captioning else Autoregressive)(backbone, config)
