import numpy as np
import pytest
import torch
from torch import nn

from miaobi.accelerate.export import Storage
from miaobi.accelerate.upscaler import upscaler_graph
from miaobi.models.upscaler import MARGIN_PX, SCALE, Upscaler, UpscalerConfig


def made(**settings: int) -> Upscaler:
    torch.manual_seed(0)
    model = Upscaler(UpscalerConfig(**{"channels": 8, "blocks": 2, **settings})).eval()
    nn.init.normal_(model.tail.weight, std=0.1)
    return model


def pictures(count: int, side: int) -> torch.Tensor:
    """Premultiplied, the left quarter empty."""
    torch.manual_seed(1)
    unit = torch.rand(count, 4, side, side)
    unit[..., : side // 4] = 0
    unit[:, :3] *= unit[:, 3:]
    return unit * 2 - 1


@pytest.mark.parametrize("settings", [{"channels": 0}, {"blocks": 0}])
def test_sizes_below_one_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        UpscalerConfig(**settings)


def test_before_training_it_is_bilinear_interpolation() -> None:
    model = Upscaler(UpscalerConfig(channels=8, blocks=1)).eval()
    x = pictures(2, 8)
    expected = nn.functional.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), expected)


def test_results_are_premultiplied_pictures_and_empty_where_the_input_is() -> None:
    with torch.no_grad():
        large = made().upscale(pictures(2, 16))
    assert large.shape == (2, 4, 64, 64)
    assert float(large.min()) >= -1
    assert float(large.max()) <= 1
    assert bool((large[:, :3] <= large[:, 3:]).all())
    assert bool((large[..., :16] == -1).all())


def test_no_pixel_reaches_farther_than_it_says() -> None:
    model = made()
    reach, side = model.config.reach_px, 48
    x = pictures(1, side)
    changed = x.clone()
    changed[..., 24, 24] = 0.5
    with torch.no_grad():
        difference = (model(changed) - model(x)).abs().amax((0, 1))
    touched = difference.nonzero().div(SCALE, rounding_mode="floor")
    assert len(touched)
    assert int((touched - 24).abs().max()) <= reach


def test_the_loss_is_zero_for_the_truth_and_leaves_the_margin_out() -> None:
    model = Upscaler(UpscalerConfig(channels=8, blocks=1))
    small = pictures(1, 16)
    model.requires_grad_(False)
    large = nn.functional.interpolate(small, scale_factor=SCALE, mode="bilinear", align_corners=False)
    assert all(float(one) < 1e-6 for one in model.loss(small, large).values())
    large[..., : SCALE * MARGIN_PX] += 1
    assert all(float(one) < 1e-6 for one in model.loss(small, large).values())
    large[..., SCALE * MARGIN_PX] += 1
    assert all(float(one) > 0 for one in model.loss(small, large).values())


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_onnx_runtime_against_torch(storage: Storage) -> None:
    import onnxruntime as ort

    model = made(channels=16)
    session = ort.InferenceSession(upscaler_graph(model, storage), providers=["CPUExecutionProvider"])
    for x in (pictures(1, 20), pictures(3, 28)[:, :, :22]):
        with torch.no_grad():
            expected = model.upscale(x).numpy()
        found = session.run(None, {"image": x.numpy()})[0]
        # in [-1, 1], 4/255 is 2/255 of the range
        np.testing.assert_allclose(found, expected, atol=1e-4 if storage == "fp32" else 4 / 255)
