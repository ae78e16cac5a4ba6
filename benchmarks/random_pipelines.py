"""Diffusers pipelines with random weights, for tests and benchmarks without a model to download.

    python benchmarks/random_pipelines.py tiny-sd --out FOLDER

The tiny ones draw 64 px in well under a second; `sd15` has the full size of Stable Diffusion 1.5 (512 px,
fp32, 4.3 GB). The same name gives the same weights. They show how fast a pipeline is and how close a faster
one stays to it, and nothing about how pictures look.

`random_calibration` makes errors visible in what they draw.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from random_calibration import calibrate
from random_tokenizers import clip_tokenizer, qwen_tokenizer, t5_tokenizer, write_vocabulary

TEXT_GAIN = 8.0
CLIP_ROWS = 1000
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def clip_text(**changes: Any) -> Any:
    """Keywords of a small CLIP text encoder's configuration, with changes."""
    small = {
        "vocab_size": CLIP_ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
        "bos_token_id": CLIP_ROWS - 2,
        "eos_token_id": CLIP_ROWS - 1,
        "pad_token_id": CLIP_ROWS - 1,
    }
    from transformers import CLIPTextConfig

    return CLIPTextConfig(**(small | changes))


def kl_autoencoder(**changes: Any) -> Any:
    """A small picture autoencoder of 8 times fewer pixels a side, with changes to its configuration."""
    from diffusers import AutoencoderKL

    small = {
        "block_out_channels": (16, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": 4,
        "sample_size": 64,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**(small | changes))


def sd() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    return StableDiffusionPipeline(
        vae=kl_autoencoder(),
        text_encoder=CLIPTextModel(clip_text()),
        tokenizer=clip_tokenizer(CLIP_ROWS),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
        ),
        scheduler=DDIMScheduler(**SD_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd15() -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            scaling_factor=0.18215,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=clip_tokenizer(49408),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        # Timesteps from 999 down to 0, where the sampler of stable-diffusion.cpp has them too.
        scheduler=EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="linspace", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return StableDiffusionXLPipeline(
        vae=kl_autoencoder(scaling_factor=0.13025, force_upcast=False),
        text_encoder=CLIPTextModel(clip_text()),
        text_encoder_2=CLIPTextModelWithProjection(clip_text(hidden_act="gelu")),
        tokenizer=clip_tokenizer(CLIP_ROWS),
        tokenizer_2=clip_tokenizer(CLIP_ROWS),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            norm_num_groups=8,
            attention_head_dim=(4, 8),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
            cross_attention_dim=64,
        ),
        scheduler=EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


@torch.no_grad()
def with_louder_text(pipe: Any) -> Any:
    """The same pipeline with more of the text in its joint attention: without guidance it hardly counts."""
    for block in pipe.transformer.transformer_blocks:
        block.attn.add_v_proj.weight.mul_(TEXT_GAIN)
    return pipe


def t5_text(width: int) -> Any:
    """A small T5 encoder whose embeddings have this width."""
    from transformers import T5Config, T5EncoderModel

    rows = len(t5_tokenizer())
    return T5EncoderModel(
        T5Config(vocab_size=rows, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=64,
            pooled_projection_dim=64,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_autoencoder(
            latent_channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(clip_text()),
        tokenizer=clip_tokenizer(CLIP_ROWS),
        text_encoder_2=CLIPTextModelWithProjection(clip_text(hidden_act="gelu")),
        tokenizer_2=clip_tokenizer(CLIP_ROWS),
        text_encoder_3=t5_text(64),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=kl_autoencoder(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(clip_text()),
        tokenizer=clip_tokenizer(CLIP_ROWS),
        text_encoder_2=t5_text(32),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    return with_louder_text(pipe)


def qwen_layers(rows: int) -> dict[str, Any]:
    """Keywords of a small Qwen language model of two layers, with so many rows of vocabulary."""
    return {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": rows - 1,
        "pad_token_id": rows - 1,
    }


def zimage() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_autoencoder(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=Qwen3Model(Qwen3Config(**qwen_layers(len(tokenizer)), head_dim=8)),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=16,
            dim=64,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=4,
            n_kv_heads=4,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        ),
    )


def qwenimage() -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = qwen_layers(len(tokenizer)) | {
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=16,
            dim_mult=[1, 2, 2, 2],
            num_res_blocks=1,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    return with_louder_text(pipe)


MAKERS: dict[str, Callable[[], Any]] = {
    "tiny-sd": sd,
    "tiny-sdxl": sdxl,
    "tiny-sd3": sd3,
    "tiny-flux": flux,
    "tiny-zimage": zimage,
    "tiny-qwenimage": qwenimage,
    "sd15": sd15,
}


def build(name: str) -> Any:
    """A calibrated pipeline with random weights: `name` is one of MAKERS.

    Raises KeyError where it is none of them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = MAKERS[name]()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval()  # T5 is made with dropout switched on
        pipe.set_progress_bar_config(disable=True)
        calibrate(pipe)
    return pipe


def save(name: str, folder: Path) -> Path:
    """Build a pipeline and write it to `folder` as diffusers folders of safetensors.

    CLIP's parts are written as hubs have them, `text_model.` before the weights' names and the vocabulary in
    files of its own, so that older releases of transformers read them too.
    """
    pipe = build(name)
    pipe.save_pretrained(folder, safe_serialization=True)
    for part, value in pipe.components.items():
        if type(value).__name__ == "CLIPTextModel":
            file = folder / part / "model.safetensors"
            weights = {f"text_model.{key}": weight for key, weight in load_file(file).items()}
            save_file(weights, file, metadata={"format": "pt"})
        if type(value).__name__ == "CLIPTokenizer":
            write_vocabulary(value, folder / part)
    return folder


@click.command(help="Write a diffusers pipeline with random weights.")
@click.argument("name", type=click.Choice(list(MAKERS)))
@click.option("--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
def main(name: str, folder: Path) -> None:
    save(name, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    click.echo(f"{name} -> {folder} ({size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
