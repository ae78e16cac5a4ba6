"""Steps that change a bundle's PyTorch weights; each gives what a new bundle is made of."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from miaobi.accelerate import export
from miaobi.accelerate.finetune import finetune_decoder, finetune_generator
from miaobi.accelerate.prune import pruned
from miaobi.accelerate.recipe import Prune, RecipeError, ShareLayers, TinyDecoder
from miaobi.accelerate.refit import refit_decoder
from miaobi.accelerate.share import shared
from miaobi.bundle import Bundle
from miaobi.models.autoencoder import Autoencoder
from miaobi.runtimes.onnx import OnnxModel
from miaobi.text.encoder import TextEncoder
from miaobi.text.memory import Memory
from miaobi.train import autoencoder as autoencoder_part
from miaobi.train import generator as generator_part
from miaobi.train import loop
from miaobi.train.generator import Generator

REFITTED = 128
"""Pictures of the memory whose latents a pruned decoder is solved for."""
Made = tuple[Mapping[str, Any], Mapping[str, bytes | Path]]
"""Keys of a manifest that change, and files."""


def smaller(bundle: Bundle, step: Prune | ShareLayers) -> Made:
    """The generator, and for pruning the decoder too, made smaller and fine-tuned as `step` says."""
    whole = generator_part.load(bundle.path("generator.safetensors"))
    decoder = whole_decoder = autoencoder_part.load(bundle.path("autoencoder.safetensors"))
    if isinstance(step, ShareLayers):
        model = shared(whole, step.group)
    else:
        model = pruned(whole, step.amount, step.method)
        decoder = pruned(whole_decoder, step.amount, step.method)
        if step.method == "structured":
            memory = _memory(bundle)
            some = np.random.default_rng(0).choice(len(memory.ids), min(len(memory.ids), REFITTED), False)
            refit_decoder(decoder, whole_decoder, torch.from_numpy(memory.unpacked(some)))
    if step.finetune:
        memory = _memory(bundle)
        encoder = TextEncoder(bundle.path("tokenizer.json"), OnnxModel(bundle.path("text.onnx")))
        guided = bundle.guidance != 1
        finetune_generator(model, whole, memory, encoder, step.finetune, bundle.steps, guided)
        if decoder is not whole_decoder:
            finetune_decoder(decoder, whole_decoder, memory, step.finetune)
    return _parts(bundle, model, decoder)


def _memory(bundle: Bundle) -> Memory:
    return Memory.load(bundle.path("memory.safetensors"), bundle.path("memory.json"), bundle.latent_shape)


def with_decoder(bundle: Bundle, step: TinyDecoder) -> Made:
    """The bundle with the decoder trained in the run folder that `step` names.

    Raises:
        RecipeError: it was trained for other latents.
    """
    decoder = autoencoder_part.load(Path(step.decoder))
    if decoder.config.latent_channels != bundle.latent_shape[0]:
        raise RecipeError(
            f"{step}: it decodes {decoder.config.latent_channels} channels, the bundle's latents have "
            f"{bundle.latent_shape[0]}; train it on this bundle's latents (recipes/emoji/tiny_decoder.toml)."
        )
    if "generator.safetensors" in bundle.files:
        return _parts(bundle, generator_part.load(bundle.path("generator.safetensors")), decoder)
    files: dict[str, bytes | Path] = {name: bundle.path(name) for name in bundle.files}
    return {}, files | export.decoder_graph(decoder, "fp32", bundle.latent_shape[1])


def _parts(bundle: Bundle, model: Generator, decoder: Autoencoder) -> Made:
    files: dict[str, bytes | Path] = {name: bundle.path(name) for name in bundle.files}
    files |= export.graphs(model, decoder, "fp32")
    for name, part in (("generator", model), ("autoencoder", decoder)):
        _, recipe = loop.load_model(bundle.path(f"{name}.safetensors"))
        tables = (
            {"model": asdict(part.config)}
            if isinstance(part, Autoencoder)
            else {"model": asdict(part.backbone), recipe.get("family", "diffusion"): asdict(part.config)}
        )
        state = {key: value.contiguous() for key, value in part.state_dict().items()}
        files[f"{name}.safetensors"] = to_safetensors(state, loop.about({**recipe, **tables}))
    return export.told_of(model, decoder), files
