"""The pipelines with random weights that other tests and benchmarks stand on: same weights, no idle parts."""

import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DiffusionPipeline

    import random_calibration
    import random_pipelines
    import random_tokenizers

pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers and transformers about themselves
TINY = [name for name in random_pipelines.MAKERS if name.startswith("tiny")]
built = cache(random_pipelines.build)


@pytest.mark.parametrize("name", TINY)
def test_a_pipeline_draws_the_same_after_saving_and_something_else_for_another_prompt(
    name: str, tmp_path: Path
) -> None:
    before = random_calibration.draw(built(name), "a red apple")
    random_pipelines.save(name, tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(random_calibration.draw(loaded, "a red apple"), before, atol=1e-5)

    assert before.shape == (1, 64, 64, 3)
    signed = before * 2 - 1
    assert 0.25 < signed.std() < 0.5
    assert (np.abs(signed) >= 1).mean() < 0.1
    other = random_calibration.draw(loaded, "a black cat and a white dog")
    assert np.abs(other - before).mean() > 0.01


def test_the_same_name_gives_the_same_weights() -> None:
    before = torch.get_rng_state()
    again = random_pipelines.build("tiny-sd").unet.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in built("tiny-sd").unet.state_dict().items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", TINY)
def test_predictions_have_unit_deviation_and_depend_on_the_timestep(name: str) -> None:
    pipe = built(name)
    with torch.no_grad():
        seen = random_calibration.outputs(
            random_calibration.denoiser_of(pipe), lambda: random_calibration.draw(pipe, output_type="latent")
        )
    assert 0.8 < float(torch.stack(seen).std()) < 1.2
    assert float((seen[0] - seen[-1]).std()) > 0.05


def test_single_letters_have_the_ids_of_the_original_vocabulary() -> None:
    ids = random_tokenizers.clip_tokenizer(49408)("a b c").input_ids
    assert ids == [49406, 320, 321, 322, 49407]
