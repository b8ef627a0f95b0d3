"""What adapters do to training crops at several factors of v, from which the gate's trust is fitted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lic_da.adapters.calibration import SHARES, Trust, fitted
from lic_da.adapters.synthesis import AdaptedSynthesis, without_tiny
from lic_da.codecs.image_codec import to_8_bit
from lic_da.data.datamodule import CropDataset, CropKey
from lic_da.methods.encoder import FrozenEncoder

_CROPS = 900  # of all domains together, the same number of each
_FEWEST = 8  # of a domain
_AT_ONCE = 6


def crop_keys(crops: CropDataset, count: int) -> list[CropKey]:
    """Keys of so many crops, but a few of each group at least; of all groups in turn."""
    groups = len(crops.entries)
    return [
        (group, number % len(crops.entries[group]), number)
        for number in range(max(_FEWEST, count // groups))
        for group in range(groups)
    ]


@torch.no_grad()
def fitted_trust(
    synthesis: AdaptedSynthesis, encoder: FrozenEncoder, crops: CropDataset, device: torch.device
) -> Trust:
    """The trust for a trained decoder and gate; a function of them and of the images alone.

    Args:
        synthesis: trained.
        encoder: of its codec.
        crops: training crops, a group a domain.
        device: that all of it is on.
    """
    crops.preload()
    keys = crop_keys(crops, _CROPS)
    features, errors = [], []
    for first in range(0, len(keys), _AT_ONCE):
        batch = default_collate([crops[key] for key in keys[first : first + _AT_ONCE]])
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        x = batch["image"]
        y_hat, read = encoder.of_crops(batch)
        own = synthesis.gate.features(read)
        v = without_tiny(synthesis.gate.classify(own).softmax(dim=1), synthesis.threshold)
        of_shares = []
        for share in SHARES:
            with synthesis.mixed_by(share * v if share else None) as transform:
                decoded = to_8_bit(encoder.decode(transform, y_hat, batch))
            difference = decoded.float() - to_8_bit(x).float()
            of_shares.append(difference.square().mean(dim=(1, 2, 3)))
        features.append(own)
        errors.append(torch.stack(of_shares, dim=1))
    return fitted(torch.cat(features), torch.cat(errors))
