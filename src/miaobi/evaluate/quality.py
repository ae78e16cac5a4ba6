"""Quality figures as plain functions of arrays: FID, KID, PSNR, SSIM, R-precision, diversity, copying, and
their intervals.

Pictures are RGB over white, (n, H, W, 3) float32 in [0, 1] (`over_white`); features are (n, d) floats.
NumPy only: where the features come from is the business of `miaobi.evaluate.features`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr, svdvals
from scipy.spatial.distance import cdist, pdist
from skimage.metrics import structural_similarity

from miaobi import images
from miaobi.evaluate.intervals import Figure as Figure
from miaobi.evaluate.intervals import bootstrap as bootstrap
from miaobi.evaluate.intervals import bootstrap_normal as bootstrap_normal
from miaobi.evaluate.intervals import mean_figure as mean_figure
from miaobi.evaluate.intervals import ratio_figure as ratio_figure

Float32 = npt.NDArray[np.float32]
Floating = npt.NDArray[np.floating]
Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


def over_white(pixels: npt.NDArray[np.uint8]) -> Float32:
    """Straight RGBA uint8 (n, H, W, 4) to RGB on white (n, H, W, 3) float32 in [0, 1]."""
    rgb = images.over_white(images.from_uint8(pixels))
    return np.ascontiguousarray(np.moveaxis((rgb + 1) * np.float32(0.5), -3, -1))


def _same_dimension(a: Floating, b: Floating) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features (n >= 2, d) and (m >= 2, d), got {a.shape} and {b.shape}")
    return a.astype(np.float64), b.astype(np.float64)


def frechet_distance(a: Floating, b: Floating) -> float:
    """FID of features (n, d) and (m, d), Heusel et al. 2017: |µa - µb|² + tr(Ca + Cb - 2 (Ca Cb)^½).

    With centred features A, B (divided by √(n-1)) and M = A Bᵀ, Ca Cb = AᵀA BᵀB has the non-zero eigenvalues
    of M Mᵀ, so tr (Ca Cb)^½ is the sum of the singular values of M: exact and real also where n < d and both
    covariances are singular, where a matrix square root fails. The bias of FID depends on n: compare figures
    of equal counts only.
    """
    a, b = _same_dimension(a, b)
    centred_a, centred_b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    spread = np.square(centred_a).sum() + np.square(centred_b).sum()
    # A = QR keeps AᵀA = RᵀR, with at most d rows.
    small_a, small_b = (
        qr(x, mode="r")[0][: x.shape[1]] if len(x) > x.shape[1] else x for x in (centred_a, centred_b)
    )
    cross = svdvals(small_a @ small_b.T).sum()
    return float(max(np.square(a.mean(0) - b.mean(0)).sum() + spread - 2 * cross, 0.0))


def kernel_distance(a: Floating, b: Floating, *, subsets: int = 200, seed: int = 0) -> Figure:
    """KID of features (n, d) and (m, d), Bińkowski et al. 2018: mean over random halves of both sets.

    The unbiased squared MMD with k(x, y) = (x·y / d + 1)³; may be slightly negative for equal distributions.
    Halves drawn without replacement vary as much as whole samples do (Shao & Wu 1989, delete-half jackknife),
    so the interval is ± 1.96 of their standard deviations.
    """
    a, b = _same_dimension(a, b)
    rng = np.random.default_rng(seed)
    half_a, half_b = max(2, len(a) // 2), max(2, len(b) // 2)
    a_a, b_b, a_b = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    scores = np.empty(subsets)
    for index in range(subsets):
        i, j = rng.choice(len(a), half_a, replace=False), rng.choice(len(b), half_b, replace=False)
        within = _off_diagonal_mean(a_a[np.ix_(i, i)]) + _off_diagonal_mean(b_b[np.ix_(j, j)])
        scores[index] = within - 2 * a_b[np.ix_(i, j)].mean()
    value, margin = float(scores.mean()), 1.96 * float(scores.std(ddof=1))
    return Figure(value, value - margin, value + margin, min(len(a), len(b)))


def _off_diagonal_mean(kernel: npt.NDArray[np.float64]) -> float:
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))


def psnr(a: Floating, b: Floating) -> Float32:
    """Peak signal-to-noise ratio in dB (n,) of pictures (n, H, W, 3) in [0, 1]; inf for equal ones."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(error), dtype=np.float32)


def ssim(a: Floating, b: Floating) -> Float32:
    """SSIM (n,) of pictures (n, H, W, 3) in [0, 1], Wang et al. 2004: Gaussian window, σ = 1.5."""

    def one(x: Floating, y: Floating) -> Floating:
        return structural_similarity(  # type: ignore[no-untyped-call, no-any-return, unused-ignore]
            x,
            y,
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )

    return np.array([one(x, y) for x, y in zip(a, b, strict=True)], dtype=np.float32)


def hits(logits: Floating, target: Int, k: int) -> Bool:
    """R-precision's hits (n,): is target (n,) among the k largest of logits (n, classes)?

    A tie counts against the target.
    """
    own = np.take_along_axis(logits, target[:, None], axis=1)
    return np.asarray((logits >= own).sum(axis=1) <= k)


def ridge_classifier(
    features: Floating, target: Int, strength: float = 1e-2
) -> Callable[[Floating], Floating]:
    """Scores (n, classes) as a linear function of features (n, d), by least squares on features of known
    `target`.

    Ridge regression of one-hot targets (Hoerl & Kennard 1970); `strength` is relative to the mean variance.
    """
    mean, variance = features.mean(0, dtype=np.float64), features.var(0, dtype=np.float64).mean()
    centred, wanted = features - mean, np.eye(int(target.max()) + 1)[target]
    shrunk = centred.T @ centred + strength * len(features) * variance * np.eye(len(mean))
    weights = np.linalg.solve(shrunk, centred.T @ (wanted - wanted.mean(0)))
    return lambda x: np.asarray((x - mean) @ weights + wanted.mean(0))


def diversity(groups: Sequence[Floating]) -> Figure:
    """Mean Euclidean distance between the features of pairs in each group (n_i >= 2, d), averaged over the
    groups.
    """
    return mean_figure(np.array([pdist(group).mean() for group in groups]))


@dataclass(frozen=True)
class Copying:
    """What `copying` found: the share, and for each generated picture (n,) its nearest memory picture and
    the ratio.

    `ratio` is (distance to the nearest memory picture) / (that picture's distance to its own nearest real
    neighbour); a picture counts as copied where it is below 1.
    """

    share: Figure
    nearest: Int
    ratio: Float32

    def worst(self, count: int) -> Int:
        """Indices of the generated pictures with the smallest ratios, smallest first."""
        return np.argsort(self.ratio, kind="stable")[:count].astype(np.int64)


def copying(generated: Floating, memory: Floating, group: Int) -> Copying:
    """Is a generated picture (n, d) nearer to a memory picture (m, d) than that one's nearest real
    neighbour is?

    Memory pictures of the same `group` (m,) (one concept in one style: skin tones, variants) are not each
    other's neighbours, so that a set of near-equal pictures cannot hide a copy. Identical real pictures of
    different groups can: the ratio is then infinite (0/0 counts as a copy).
    """
    distance = cdist(generated.astype(np.float64), memory.astype(np.float64))
    nearest = distance.argmin(axis=1)
    found, where = np.unique(nearest, return_inverse=True)
    between = cdist(memory[found].astype(np.float64), memory.astype(np.float64))
    between[group[found][:, None] == group[None, :]] = np.inf
    own, real = distance[np.arange(len(generated)), nearest], between.min(axis=1)[where]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(own == 0, 0.0, own / real)
    return Copying(mean_figure(ratio < 1), nearest.astype(np.int64), ratio.astype(np.float32))
