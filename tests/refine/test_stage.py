from dataclasses import dataclass

import numpy as np
import pytest

from miaobi.errors import InputError
from miaobi.images import Float
from miaobi.refine import stage
from miaobi.refine.enhance import Denoise, Sharpen
from miaobi.refine.stage import Subject, parse, refine, report


@dataclass(frozen=True)
class Fill:
    """Everything to one value, `scale` times as large."""

    value: float = 1.0
    scale: int = 1
    loud: bool = False

    def __call__(self, subject: Subject) -> Float:
        _, height, width = subject.image.shape
        return np.full((4, height * self.scale, width * self.scale), self.value, np.float32)


@pytest.fixture(autouse=True)
def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "STAGES", {**stage.STAGES, "fill": "nowhere:Fill"})


def test_text_becomes_stages_with_typed_settings() -> None:
    assert parse("denoise:method=wavelet:strength=0.1, sharpen:amount=2") == [
        Denoise("wavelet", 0.1),
        Sharpen(2.0),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("polish", "unknown stage 'polish'; the stages are enhance"),
        ("denoise:size=3", "setting 'size=3' is unknown; the settings are method=nlm"),
        ("denoise:strength", "is unknown"),
        ("denoise:strength=much", "strength is 'much'; give a number"),
        ("denoise:method=magic", "method is 'magic'; choose nlm or bilateral or wavelet"),
        ("sharpen:amount=-1", "amount is -1.0; choose 0 to 10"),
    ],
)
def test_what_is_unknown_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse(text)


def test_the_mask_keeps_the_outside(drawn: Float) -> None:
    mask = np.zeros((32, 32), np.float32)
    mask[:16], mask[16] = 1, 0.5
    made, _ = refine(Subject(drawn, mask), [Fill(1)])
    assert np.array_equal(made[:, 17:], drawn[:, 17:])
    np.testing.assert_allclose(made[:, :16], 1, atol=1e-6)
    np.testing.assert_allclose(made[:, 16], (drawn[:, 16] + 1) / 2, atol=1e-6)


def test_a_mask_of_another_size_is_refused(drawn: Float) -> None:
    with pytest.raises(InputError, match="the mask is 16x32 px and the picture 32x32 px"):
        refine(Subject(drawn, np.ones((32, 16), np.float32)), [Fill()])


def test_the_mask_grows_with_the_picture(drawn: Float) -> None:
    mask = np.zeros((32, 32), np.float32)
    mask[:, :16] = 1
    made, steps = refine(Subject(drawn, mask), [Fill(0.5, 2), Fill(-1)])
    assert [step.size_px for step in steps] == [(64, 64), (64, 64)]
    assert (made[:, :, :31] == -1).all()
    assert (made[:, :, 33:] == 0.5).all()


def test_figures_against_a_reference_of_the_same_size(drawn: Float) -> None:
    white = np.ones_like(drawn)
    _, steps = refine(Subject(drawn), [Fill(1), Fill(0.0), Fill(1, 2)], reference=white)
    assert steps[0].psnr_db == np.inf
    assert steps[0].ssim == pytest.approx(1)
    assert steps[1].psnr_db == np.inf  # half-seen grey is premultiplied: (0.5 + 1 - 0.5) on white
    assert (steps[2].psnr_db, steps[2].ssim) == (None, None)


def test_steps_tell_what_was_done(drawn: Float) -> None:
    before = drawn.copy()
    _, steps = refine(Subject(drawn), [Fill(0.5, loud=True)])
    assert np.array_equal(drawn, before)
    assert steps[0].name == "fill"
    assert steps[0].settings == {"value": 0.5, "scale": 1, "loud": True}
    assert steps[0].ms >= 0
    (row,) = report(steps)
    assert row.startswith("fill ")
    assert row.endswith("ms, 32x32 px (value 0.5, scale 1, loud True)")
