"""k-means over more frames than fit into memory, at several numbers of clusters at once.

scikit-learn's mini-batch k-means (Sculley, "Web-scale k-means clustering", WWW 2010), given one
block of frames after the other. Blocks come as often as there are passes, in another order each
time; nothing but the one block and the centroids is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin
from tqdm import tqdm


def fit_clusters(
    read: Callable[[int], np.ndarray],
    num_blocks: int,
    clusters: Sequence[int],
    passes: int,
    seed: int,
) -> list[np.ndarray]:
    """Fit k-means for each number of clusters.

    Parameters
    ----------
    read : Callable
        Gives block i: float32 ``[frames, D]``. A block should be like the whole: the centroids
        begin at frames of one of them (k-means++).
    num_blocks : int
        How many there are.
    clusters : Sequence[int]
        Numbers of clusters, the scales.
    passes : int
        How often each block is seen.
    seed : int
        The same seed and blocks give the same centroids.

    Returns
    -------
    list of np.ndarray
        Centroids ``[clusters, D]`` of each scale, float32.

    Raises
    ------
    ValueError
        If no block has as many frames as there are clusters.

    Examples
    --------
    >>> block = np.float32([[0.0], [0.2], [5.0], [5.2]])
    >>> [centroids] = fit_clusters(lambda i: block, 1, [2], passes=5, seed=1)
    >>> np.sort(centroids.ravel()).round(1)
    array([0.1, 5.1], dtype=float32)
    """
    order = np.random.default_rng(seed)
    models: list[MiniBatchKMeans] = []
    with tqdm(total=passes * num_blocks, desc="k-means", unit="block", disable=None) as bar:
        for _ in range(passes):
            for number in order.permutation(num_blocks):
                frames = read(int(number))
                if not models:
                    frames = _enough(frames, read, num_blocks, max(clusters))
                    models = [_model(count, len(frames), seed) for count in clusters]
                for model in models:
                    model.partial_fit(frames)
                bar.update()
    return [model.cluster_centers_.astype(np.float32) for model in models]


def nearest_clusters(frames: np.ndarray, centroids: Sequence[np.ndarray]) -> np.ndarray:
    """Find the nearest centroid of each frame ``[frames, D]`` at each scale: ``[frames, scales]``.

    >>> nearest_clusters(np.float32([[0.0], [9.0]]), [np.float32([[1.0], [8.0]])])
    array([[0],
           [1]])
    """
    return np.stack([pairwise_distances_argmin(frames, of) for of in centroids], axis=1)


def _enough(
    frames: np.ndarray, read: Callable[[int], np.ndarray], num_blocks: int, least: int
) -> np.ndarray:
    """Give frames to begin with: those of a block, or of the first that has as many as clusters."""
    if len(frames) >= least:
        return frames
    most = len(frames)
    for number in range(num_blocks):
        frames = read(number)
        if len(frames) >= least:
            return frames
        most = max(most, len(frames))
    raise ValueError(
        f"clusters: expected as many frames as clusters or more in a block, found {most} frames "
        f"at most for {least} clusters. Ask for fewer clusters, or for larger blocks."
    )


def _model(clusters: int, frames: int, seed: int) -> MiniBatchKMeans:
    # The centroids begin with a whole block in view; partial_fit begins once. None is moved to a
    # random frame later, which blocks far larger than a mini-batch would ask for again and again.
    return MiniBatchKMeans(
        clusters, n_init=1, init_size=frames, reassignment_ratio=0.0, random_state=seed
    )
