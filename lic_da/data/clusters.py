"""Groups of images that look alike, found from their blocks (:mod:`lic_da.data.blocks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lic_da.data.blocks import Described

Features = NDArray[np.float64]
Labels = NDArray[np.int64]

WORDS = 96
"""Visual words."""

_AXES = 8  # principal axes of the histograms that are looked at
_BLOCKS = 200  # of each image, from which words are made
_STARTS = 24
_ROUND = 10  # images a group and axis; with fewer, covariances cannot be told


def word_shares(
    images: Sequence[Described], *more: Sequence[Described], seed: int
) -> list[Features]:
    """How often each visual word is in each image, as square roots of shares.

    Args:
        images: blocks of each, from which the words are made.
        more: others that are described by the same words.
        seed: of the choice of blocks.

    Returns:
        ``(N, 96)`` for the images, and for each of the others; fewer columns where blocks are few.
    """
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    some = np.concatenate([b[rng.permutation(len(b))[:_BLOCKS]] for b in images])
    centre, spread = some.mean(axis=0), some.std(axis=0) + 1e-6
    different = len(np.unique(some, axis=0))
    words = MiniBatchKMeans(min(WORDS, different), n_init=3, random_state=seed)
    words.fit((some - centre) / spread)

    def shares(blocks: Described) -> Features:
        found = words.predict((blocks - centre) / spread)
        counts = np.bincount(found, minlength=words.n_clusters)
        return np.sqrt(counts / len(blocks))

    return [np.array([shares(b) for b in group]) for group in (images, *more)]


def clustered(features: Features, groups: int, seed: int) -> Labels:
    """A group for each image: a Gaussian mixture, or k-means where there are few images.

    Args:
        features: ``(N, D)``.
        groups: at most as many as images.
        seed: of the starts.

    Returns:
        ``(N,)``, from 0; a group may have no image.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    axes = min(_AXES, *features.shape)
    reduced = PCA(axes, random_state=seed).fit_transform(features)
    different = len(np.unique(reduced.round(9), axis=0))
    if different <= groups or len(features) < _ROUND * groups * axes / 4:
        means = KMeans(min(groups, different), n_init=_STARTS, random_state=seed)
        return np.asarray(means.fit_predict(reduced), np.int64)
    mixture = GaussianMixture(
        groups,
        n_init=_STARTS,
        random_state=seed,
        reg_covar=1e-2 * float(reduced.var(axis=0).mean()) + 1e-9,
    )
    return np.asarray(mixture.fit_predict(reduced), np.int64)


def nearest_group(features: Features, labels: Labels, unknown: NDArray[np.bool_]) -> Labels:
    """Labels with each unknown one replaced by that of the nearest group's mean.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        unknown: ``(N,)``; at least one is known.
    """
    known = np.unique(labels[~unknown])
    means = np.stack([features[(labels == k) & ~unknown].mean(axis=0) for k in known])
    apart = ((features[:, None] - means[None]) ** 2).sum(axis=2)
    return np.where(unknown, known[apart.argmin(axis=1)], labels)


def most_like(own: Features, known: Mapping[str, Features]) -> str | None:
    """The domain that a group is most like; None: none is as near as the group's own images are.

    Args:
        own: features of the group's images, ``(N, D)``.
        known: of images of each domain.
    """
    centre = own.mean(axis=0)
    spread = float(np.sqrt(((own - centre) ** 2).sum(axis=1).mean()))
    apart = {n: float(np.linalg.norm(f.mean(axis=0) - centre)) for n, f in known.items()}
    nearest = min(apart, key=lambda name: apart[name], default=None)
    return nearest if nearest is not None and apart[nearest] < _NEAR * spread else None


_NEAR = 0.5
"""Share of a group's spread."""
