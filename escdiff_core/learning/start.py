"""Where a token starts: at a word of each text tower, moved by what a filter says of the reference (E4T, Gal
et al. 2023)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ESCDiffError
from ..model.autoencoder import image_to_latents
from ..model.diffusion import DiffusionModel
from ..model.text import Vectors
from ..reference import Reference
from ..unet.words import moved, starting_word
from .features import ReferenceEncoder, ReferenceFeatures, reference_features
from .filters import AttributeFilter, make_filter
from .recipes import Recipe


@dataclass(frozen=True)
class Start:
    """``words``: (dim,) for each tower. With a filter: its ``network``, whether that ``trains`` along, the
    ``features`` that it sees, and the ``scale`` s of its word.
    """

    words: Mapping[str, torch.Tensor]
    network: AttributeFilter | None = None
    features: ReferenceFeatures | None = None
    trains: bool = False
    scale: float = 0.0

    def vectors(self, offset: torch.Tensor) -> Vectors:
        """The token's vectors, (n, dim) for each tower, with a learned ``offset``, (n, sum of the widths)."""
        if self.network is None:
            return moved(self.words, offset)
        return moved(self.words, offset, self.network(self.features.unet, self.features.clip), self.scale)

    def scale_of_words(self) -> float:
        """The root of the mean square of the words' numbers: what a relative rate of the token is a share
        of."""
        return float(torch.cat([word.float() for word in self.words.values()]).square().mean().sqrt())

    def identity(self) -> list:
        """What a run and its continuation must agree in, as JSON data."""
        made = [self.trains, list(self.network.widths.values()) if self.network else []]
        if self.network and not self.trains:
            made += [
                hashlib.sha256(p.detach().cpu().numpy().tobytes()).hexdigest()
                for p in self.network.parameters()
            ]
        return made


def choose_start(model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, init_word: str,
                 seed: int, network: AttributeFilter | None = None, features: ReferenceFeatures | None = None,
                 encoder: ReferenceEncoder | None = None) -> Start:
    """The start of a run: with the given filter, with a fresh one that trains along, or with none for recipes
    of scale 0.

    ``features``: those of the references, if they were read before. Raises ESCDiffError for a filter of
    another encoder.
    """
    words = starting_word(model, init_word)
    if not recipe.filter_scale:
        return Start(words)
    if features is None:
        features = read_features(model, references, recipe, encoder, seed)
    trains = network is None
    network = network if network is not None else make_filter(model, features, seed)
    clip, needed = 0 if features.clip is None else len(features.clip), network.widths["clip_width"]
    if needed not in (0, clip):
        raise ESCDiffError(
            f"the filter was trained with an encoder of width {needed}, this one's is {clip}; give the "
            "same encoder, or train filters for this one"
        )
    return Start(
        words, network, features, trains, recipe.filter_scale if network.scale is None else network.scale
    )


def read_features(model: DiffusionModel, references: Sequence[Reference], recipe: Recipe,
                  encoder: ReferenceEncoder | None, seed: int) -> ReferenceFeatures:
    """What the UNet and the encoder see in the references, at the recipe's timestep."""
    latents = torch.cat([image_to_latents(model, r.image[None], alone=True) for r in references])
    images = torch.from_numpy(np.stack([r.image for r in references]))
    return reference_features(model, latents, images, recipe.feature_timestep, encoder, seed)
