import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from miaobi.evaluate import quality


def gaussian(seed: int, count: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Samples whose mean and covariance are exactly `mean` and `scale @ scale.T`."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return whitened @ scale.T + mean


def test_frechet_distance_of_two_gaussians_has_its_closed_form() -> None:
    # Diagonal covariances: |µa - µb|² + Σ (σa - σb)².
    sigma_a, sigma_b, mean = np.array([1.0, 2.0, 0.5]), np.array([0.7, 1.0, 3.0]), np.array([1.0, -2.0, 0.0])
    a = gaussian(0, 50, np.zeros(3), np.diag(sigma_a))
    b = gaussian(1, 80, mean, np.diag(sigma_b))
    assert quality.frechet_distance(a, b) == pytest.approx(5.0 + np.square(sigma_a - sigma_b).sum())


def test_frechet_distance_agrees_with_the_matrix_square_root() -> None:
    rng = np.random.default_rng(2)
    a, b = (
        gaussian(i, 60, rng.standard_normal(4), np.linalg.cholesky(np.cov(rng.standard_normal((4, 9)))))
        for i in (3, 4)
    )
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariance_a @ covariance_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariance_a + covariance_b - 2 * root)
    assert quality.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_is_exact_with_fewer_samples_than_dimensions() -> None:
    # Padding features with constant dimensions changes nothing, but makes every covariance singular.
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((12, 5)), rng.standard_normal((15, 5)) + 1
    padded_a, padded_b = (np.pad(x, ((0, 0), (0, 40))) for x in (a, b))
    assert quality.frechet_distance(padded_a, padded_b) == pytest.approx(quality.frechet_distance(a, b))
    assert quality.frechet_distance(padded_a, padded_a) == pytest.approx(0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_frechet_distance_is_symmetric_and_not_negative(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    distance = quality.frechet_distance(a, b)
    assert distance >= 0
    assert distance == pytest.approx(quality.frechet_distance(b, a))


def unbiased_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 4 of Bińkowski et al. 2018, by loops."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_averages_to_the_unbiased_estimate() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((20, 3)), rng.standard_normal((20, 3)) * 1.5 + 0.5
    figure = quality.kernel_distance(a, b, subsets=4000)
    error = (figure.high - figure.low) / 1.96 / 2 / np.sqrt(4000)
    assert figure.value == pytest.approx(unbiased_mmd(a, b), abs=4 * error)


def test_kernel_distance_of_equal_distributions_is_near_zero() -> None:
    rng = np.random.default_rng(7)
    figure = quality.kernel_distance(rng.standard_normal((400, 16)), rng.standard_normal((400, 16)))
    assert figure.low < 0 < figure.high


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (5,)])
def test_distances_refuse_features_that_do_not_match(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected features"):
        quality.frechet_distance(np.zeros(shape), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="expected features"):
        quality.kernel_distance(np.zeros(shape), np.zeros((5, 4)))


def test_psnr_and_ssim_identities() -> None:
    pictures = np.random.default_rng(8).random((3, 32, 32, 3), dtype=np.float32)
    assert np.isinf(quality.psnr(pictures, pictures)).all()
    assert quality.ssim(pictures, pictures) == pytest.approx(np.ones(3))
    # A constant error e has PSNR -20 log10 e.
    assert quality.psnr(pictures, pictures + np.float32(0.1)) == pytest.approx(np.full(3, 20.0), abs=1e-4)
    # Two flat pictures: variances vanish and SSIM is its luminance term (2 µx µy + C1) / (µx² + µy² + C1).
    flat, c1 = np.ones((1, 32, 32, 3), dtype=np.float32), 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert quality.ssim(flat * np.float32(0.2), flat * np.float32(0.6)) == pytest.approx([expected], abs=1e-5)


def test_over_white_blends_straight_alpha() -> None:
    pixels = np.zeros((1, 1, 3, 4), dtype=np.uint8)
    pixels[0, 0] = [[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 51]]
    assert quality.over_white(pixels)[0, 0] == pytest.approx(
        np.array([[1, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]]), abs=1e-6
    )


def test_hits_on_toy_logits() -> None:
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [2, 3, 1], [1, 1, 1]])
    target = np.array([0, 0, 0, 0])
    assert quality.hits(logits, target, 1).tolist() == [True, False, False, False]
    assert quality.hits(logits, target, 2).tolist() == [True, False, True, False]
    assert quality.hits(logits, target, 3).all()


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(9)
    figures = [quality.mean_figure(rng.random(100) < 0.6, resamples=200) for _ in range(200)]
    covered = np.mean([figure.low <= 0.6 <= figure.high for figure in figures])
    assert 0.88 <= covered <= 0.99
    assert figures[0].count == 100


def test_bootstrap_keeps_pairs_together() -> None:
    values = np.random.default_rng(10).random(50) + 1
    figure = quality.ratio_figure(2 * values, values)
    assert (figure.value, figure.low, figure.high) == pytest.approx((2, 2, 2))
    with pytest.raises(ValueError, match="paired"):
        quality.ratio_figure(values, values[1:])
    assert np.isnan(quality.ratio_figure(values, 0 * values).value)


def test_bootstrap_normal_is_centred_on_the_value_of_a_biased_statistic() -> None:
    a = np.random.default_rng(11).standard_normal((40, 60))
    figure = quality.bootstrap_normal(quality.frechet_distance, a, a[::-1].copy(), resamples=10)
    assert figure.low < figure.value < figure.high
    assert figure.value == pytest.approx((figure.low + figure.high) / 2)


def test_diversity_is_the_mean_pairwise_distance() -> None:
    triangle = np.array([[0.0, 0], [3, 0], [0, 4]])
    assert quality.diversity([triangle, 2 * triangle]).value == pytest.approx(6)
    assert quality.diversity([np.ones((8, 2))]).value == 0


def test_copying_compares_with_the_real_neighbour_of_another_group() -> None:
    memory = np.array([[0.0, 0], [0.1, 0], [10, 0], [14, 0]])
    group = np.array([0, 0, 1, 2])
    generated = np.array([[0, 1.0], [10, 5], [14, 0], [12.5, 0]])
    found = quality.copying(generated, memory, group)
    assert found.nearest.tolist() == [0, 2, 3, 3]
    # Picture 0's near twin (same group) is not its neighbour; picture 2, at distance 10, is.
    assert found.ratio == pytest.approx([0.1, 1.25, 0, 0.375])
    assert found.share.value == 0.75
    assert found.worst(2).tolist() == [2, 0]


def test_ridge_classifier_separates_what_a_line_separates() -> None:
    rng = np.random.default_rng(12)
    target = rng.integers(0, 3, 90)
    features = rng.standard_normal((90, 20)) + 10 * np.eye(20)[target]
    scores = quality.ridge_classifier(features[:60], target[:60])(features[60:])
    assert quality.hits(scores, target[60:], 1).all()
