"""A pipeline's pictures against prompts and real pictures: R-precision by CLIP, FID and KID.

CLIP and Inception come through torchmetrics, which fetches their weights from a hub the first time; what
works without one is FID and KID with the features of EfficientNet-Lite0, whose weights a package carries.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from miaobi import images
from miaobi.errors import DataError, InputError, MachineError
from miaobi.evaluate import quality
from miaobi.evaluate.intervals import Figure, bootstrap_normal, mean_figure
from miaobi.images import UInt8
from miaobi.refine.arrays import library

CLIP = "openai/clip-vit-base-patch16"
FEATURES = ("efficientnet-lite0", "inception")
_BATCH = 16

Extract = Callable[[UInt8], npt.NDArray[np.float32]]
"""Straight RGBA pictures (n, H, W, 4) to features (n, d)."""


def r_precision(pixels: UInt8, prompts: Sequence[str], clip: str = CLIP) -> dict[str, Figure]:
    """CLIP score and R-precision of pictures (n, H, W, 4) over white, one of each of n different prompts.

    The score is 100 · max(cos, 0) of a picture and its prompt (Hessel et al. 2021, arXiv:2104.08718);
    R-precision the share of pictures whose own prompt is the nearest (top 1), or one of the five nearest, of
    all n (Park et al. 2021): its chance level is 1/n, so compare figures of equal n only.

    Args:
        clip: an id of a model of OpenAI on the hub, or a folder with one.

    Raises:
        InputError: prompts are repeated, or not as many as pictures.
        MachineError: torchmetrics or transformers is missing, or the weights cannot be fetched.
    """
    if len(pixels) != len(prompts) or len(set(prompts)) != len(prompts):
        raise InputError(
            f"{len(pixels)} pictures and {len(set(prompts))} different prompts; give one of each."
        )
    cosines = _clip_cosines(pixels, list(prompts), clip)
    own = np.arange(len(prompts))
    figures = {"clip_score": mean_figure(100 * np.maximum(cosines[own, own], 0))}
    for k in (1, 5):
        figures[f"r_precision_top{k}"] = mean_figure(quality.hits(cosines, own, k))
    return figures


def _clip_cosines(pixels: UInt8, prompts: list[str], clip: str) -> npt.NDArray[np.float32]:
    """Cosines (pictures, prompts)."""
    torch, multimodal = library("torch", "train"), library("torchmetrics.multimodal.clip_score", "metrics")
    model, processor = _fetched(lambda: _clip(multimodal, clip), "CLIP's weights", "give --clip FOLDER")
    pictures = _on_white(pixels)
    rows = []
    with torch.inference_mode():
        for begin in range(0, len(pictures), _BATCH):
            asked = processor(
                text=prompts,
                images=pictures[begin : begin + _BATCH],
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
            told = model(**asked)  # whose embeddings are of unit length
            rows.append((told.image_embeds @ told.text_embeds.T).float().numpy())
    return np.concatenate(rows)


def _clip(multimodal: Any, clip: str) -> tuple[Any, Any]:
    if Path(clip).is_dir():
        transformers = library("transformers", "metrics")
        model = transformers.CLIPModel.from_pretrained(clip, local_files_only=True)
        return model.eval(), transformers.CLIPProcessor.from_pretrained(clip, local_files_only=True)
    metric = multimodal.CLIPScore(clip)
    return metric.model.eval(), metric.processor


def extractor(name: str) -> Extract:
    """Features by name, one of `FEATURES`.

    Raises:
        InputError: the name is none of them.
        MachineError: a package is missing, or Inception's weights cannot be fetched.
    """
    if name not in FEATURES:
        raise InputError(f"features are {name!r}; choose {' or '.join(FEATURES)}.")
    if name == "efficientnet-lite0":
        found: Extract = library("miaobi.evaluate.features", "train").FeatureExtractor()
        return found
    torch, fid = library("torch", "train"), library("torchmetrics.image.fid", "metrics")
    network = _fetched(
        lambda: fid.FrechetInceptionDistance(feature=2048).inception,
        "Inception's weights",
        "choose --features efficientnet-lite0",
    )

    def features(pixels: UInt8) -> npt.NDArray[np.float32]:
        made = []
        with torch.inference_mode():
            for begin in range(0, len(pixels), _BATCH):
                rgb = np.stack([np.asarray(one) for one in _on_white(pixels[begin : begin + _BATCH])])
                made.append(network(torch.from_numpy(rgb).permute(0, 3, 1, 2)).float().numpy())
        return np.concatenate(made)

    return features


def distances(pixels: UInt8, real: UInt8, extract: Extract) -> dict[str, Figure]:
    """FID and KID of pictures (n, H, W, 4) against real ones (m, H, W, 4); both shift with their counts.

    Raises:
        InputError: there are fewer than 2 of either.
    """
    if min(len(pixels), len(real)) < 2:
        raise InputError(f"{len(pixels)} pictures and {len(real)} real ones given; give 2 or more of both.")
    a, b = extract(pixels), extract(real)
    index = np.arange(len(a))
    fid = bootstrap_normal(lambda chosen: quality.frechet_distance(a[chosen], b), index)
    return {"fid": fid, "kid": quality.kernel_distance(a, b)}


def real_pictures(folder: Path, size_px: int, limit: int | None = None) -> UInt8:
    """Pictures of a folder and those below it, by name, each (size_px, size_px, 4), its middle square.

    Raises:
        DataError: the folder holds none, or one cannot be read.
    """
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    )
    if not paths:
        raise DataError(f"{str(folder)!r} holds no .png, .jpg or .webp; give a folder of real pictures.")
    found = []
    for path in paths[:limit]:
        try:
            with Image.open(path) as picture:
                side = min(picture.size)
                left, top = ((length - side) // 2 for length in picture.size)
                square = picture.convert("RGBA").crop((left, top, left + side, top + side))
        except OSError as error:
            raise DataError(f"{str(path)!r} is no picture that can be read: {error}; remove it.") from error
        found.append(images.from_pil(square.resize((size_px, size_px), Image.Resampling.LANCZOS)))
    return np.stack(found)


def _on_white(pixels: UInt8) -> list[Image.Image]:
    rgb = np.rint(quality.over_white(pixels) * 255).astype(np.uint8)
    return [Image.fromarray(one) for one in rgb]


def _fetched(fetch: Callable[[], Any], what: str, otherwise: str) -> Any:
    """What `fetch` gives; that the hub is out of reach, in one line."""
    try:
        return fetch()
    except ModuleNotFoundError as error:
        raise MachineError(f"{what}: {error}; run: pip install 'miaobi[metrics]'") from error
    except (OSError, ValueError) as error:  # ValueError: an id that torchmetrics does not know
        raise MachineError(
            f"{what} cannot be loaded ({str(error).splitlines()[0]}); "
            f"connect to the hub once, or {otherwise}."
        ) from error
