"""The attribute: what was learned from one reference, in memory and as one safetensors file."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..choices import LAYOUTS, REACHES
from ..errors import ESCDiffError
from ..files import write_safetensors
from .header import read_header
from .stored import (
    DELTA_PREFIX,
    EMBEDDING_PREFIX,
    FORMAT_VERSION,
    METADATA_KEY,
    as_json,
    check_entries,
    read_metadata,
    stored,
    with_prefix,
)
from .tensors import (
    DOWN,
    MOST_TOKENS,
    MOST_VECTORS,
    check_delta,
    check_embeddings,
    differences,
    form_of,
)

KINDS = ("shape", "appearance", "concept")
LARGEST_THUMBNAIL = 512 << 10  # bytes
PNG = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT = 200             # letters of token, word, recipe and the like
# Models that attributes may still be of although nobody can get them any more, by fingerprint
GONE = {
    "9304afb3afe2c39fdd8f0fb50898832818989c6db4ed8abcf32cd1df8fbd0600": "the pocket model of ESCDiff 0.4.0"
}


@dataclass(frozen=True, eq=False)
class Attribute:
    """One learned attribute; see DESIGN §2 and §6. ``dataclasses.replace`` makes a variant.

    ``kind``: shape, appearance or concept. ``token``: the placeholder in prompts (``*m``); ``word``: the
    plain words in its place on a half that does not own it. ``embeddings``: text encoder (clip_l, clip_g,
    clip_h) → (n_tokens, dim). ``delta``: the UNet's change under canonical names, in one of the two forms of
    :mod:`.tensors`. ``blocks``: ids of the UNet blocks that trained. ``reach``: which blocks see the token,
    its ``own`` or ``all``. ``layout``: one vector for all layers and timesteps, or one for each of the
    ``layers`` or ``stages`` (see unet.tokens). ``thumbnail``: a PNG, or empty. ``extra``: whatever else
    belongs to it, JSON data; entries that this version does not know survive.
    """

    kind: str
    token: str
    word: str
    embeddings: Mapping[str, torch.Tensor]
    delta: Mapping[str, torch.Tensor]
    blocks: tuple[str, ...]
    recipe: str
    recipe_hash: str
    preset: str
    base_fingerprint: str
    steps: int
    seed: int
    losses: Mapping[str, float] = field(default_factory=dict)
    reach: str = "own"
    layout: str = "one"
    reference_hash: str = ""
    thumbnail: bytes = b""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> Literal["full", "lora", "none"]:
        """How the delta is kept; ``none`` when only the token was learned."""
        return form_of(self.delta)

    def quantised(self) -> "Attribute":
        """Return the attribute as loading a saved one gives it, bit for bit: delta in fp16, the rest in fp32.

        Raises ESCDiffError for contents that no file may hold: wrong names or shapes, numbers that are not
        finite or too large for fp16, texts that are not JSON.
        """
        _check_fields(self)
        check_delta({name: tuple(t.shape) for name, t in self.delta.items()})
        if not self.embeddings and not self.delta:
            raise ESCDiffError(
                "the attribute holds neither a token embedding nor a delta; there is nothing to keep"
            )
        return replace(
            self,
            embeddings={
                name: stored(EMBEDDING_PREFIX + name, t) for name, t in sorted(self.embeddings.items())
            },
            delta={name: stored(DELTA_PREFIX + name, t) for name, t in sorted(self.delta.items())},
            losses={name: float(loss) for name, loss in self.losses.items()},
            extra=json.loads(as_json(dict(self.extra))),
        )

    def save(self, path: str | Path) -> int:
        """Write the file and return its size in bytes; the path never holds half a file, equal content equal
        bytes.

        Raises ESCDiffError as :meth:`quantised` does, and when the disk is full or the path cannot be
        written.
        """
        stored = self.quantised()
        tensors = {EMBEDDING_PREFIX + name: t for name, t in stored.embeddings.items()}
        tensors |= {DELTA_PREFIX + name: t for name, t in stored.delta.items()}
        return write_safetensors(tensors, path, METADATA_KEY, as_json(_metadata(stored)))

    @classmethod
    def load(cls, path: str | Path) -> "Attribute":
        """Read and check a file. Raises ESCDiffError with one sentence for anything that is not a sound
        attribute."""
        path = Path(path)
        header = read_header(path)
        data = read_metadata(header, path)
        check_entries(header, path)
        known = {f.name for f in fields(cls)} - {"embeddings", "delta", "extra"}
        try:
            tensors = load_file(path)
            attribute = cls(
                embeddings=with_prefix(tensors, EMBEDDING_PREFIX),
                delta=with_prefix(tensors, DELTA_PREFIX),
                extra={key: value for key, value in data.items() if key not in known},
                **{key: data[key] for key in known if key in data},
            )
            return attribute.quantised()
        except (SafetensorError, OSError, TypeError) as error:  # TypeError: a field is missing
            raise ESCDiffError(
                f"{path} cannot be read as an attribute ({error}); the file is damaged"
            ) from error
        except ESCDiffError as error:
            raise ESCDiffError(f"{path}: {error.args[0]}") from error

    def check_base(self, fingerprint: str) -> None:
        """Raise ESCDiffError unless the attribute was learned on the base model with this fingerprint."""
        if self.base_fingerprint == fingerprint:
            return
        what = f"the {self.kind} attribute {self.token!r} was learned on"
        if self.base_fingerprint in GONE:
            raise ESCDiffError(
                f"{what} {GONE[self.base_fingerprint]}, which is no longer shipped; learn it again"
            )
        raise ESCDiffError(
            f"{what} another base model (fingerprint {self.base_fingerprint[:12]}, the loaded model has "
            f"{fingerprint[:12]}); load the model it was learned on, or learn it again on this one"
        )

    def describe(self) -> dict[str, Any]:
        """Return what ``info`` shows, as JSON data: all fields but tensors and picture; of those, sizes and
        norms."""
        norm = sum(float(t.square().sum(dtype=torch.float64)) for _, t in differences(self.delta)) ** 0.5
        tensors = (*self.embeddings.values(), *self.delta.values())
        ranks = sorted({t.shape[0] for name, t in self.delta.items() if name.endswith(DOWN)})
        return {
            **{f.name: getattr(self, f.name) for f in fields(self) if f.type in (str, int)},
            "form": self.form,
            "ranks": ranks,
            "blocks": list(self.blocks),
            "token_vectors": {name: list(t.shape) for name, t in self.embeddings.items()},
            "delta_tensors": len(self.delta),
            "delta_norm": norm,
            "parameters": sum(t.numel() for t in tensors),
            "megabytes": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 3),
            "losses": dict(self.losses),
            "extra": dict(self.extra),
        }


def _metadata(attribute: Attribute) -> dict[str, Any]:
    """All fields but the tensors; ``extra`` stands beside them, so that fields of later versions survive as
    extras."""
    own = {f.name: getattr(attribute, f.name) for f in fields(attribute)}
    for name in ("embeddings", "delta", "extra"):
        del own[name]
    own |= {
        "format_version": FORMAT_VERSION,
        "blocks": list(attribute.blocks),
        "thumbnail": base64.b64encode(attribute.thumbnail).decode("ascii"),
    }
    return {**attribute.extra, **own}


def _check_fields(attribute: Attribute) -> None:
    """Raise ESCDiffError unless every field is of its kind, so that a file cannot smuggle anything else
    in."""
    texts = [f.name for f in fields(Attribute) if f.type is str]
    wrong = next((n for n in texts if not is_text(getattr(attribute, n))), None)
    wrong = wrong or next((n for n in ("steps", "seed") if type(getattr(attribute, n)) is not int), None)
    if wrong is None and not all(is_text(block) for block in attribute.blocks):
        wrong = "blocks"
    losses = attribute.losses
    if wrong is None and not (isinstance(losses, Mapping) and all(map(_is_number, losses.values()))):
        wrong = "losses"
    if wrong is not None:
        raise ESCDiffError(
            f"the attribute's {wrong} is {str(getattr(attribute, wrong))[:80]!r}; needed: plain text "
            f"of at most {LONGEST_TEXT} letters, or a finite number"
        )
    for what, value, known in (("attribute kind", attribute.kind, KINDS), ("reach", attribute.reach, REACHES),
                               ("layout of a token", attribute.layout, LAYOUTS)):
        if value not in known:
            raise ESCDiffError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    # the vectors of one layout stand in a prompt together, those of the others one at a time
    check_embeddings({name: tuple(t.shape) for name, t in attribute.embeddings.items()},
                     MOST_TOKENS if attribute.layout == "one" else MOST_VECTORS)
    if not attribute.token or len(attribute.token.split()) != 1:
        raise ESCDiffError(f"the token is {attribute.token!r}; needed: one word without spaces, such as *m")
    picture = attribute.thumbnail
    if (
        not isinstance(picture, bytes)
        or (picture and not picture.startswith(PNG))
        or len(picture) > LARGEST_THUMBNAIL
    ):
        raise ESCDiffError(
            f"the thumbnail is not a PNG of at most {LARGEST_THUMBNAIL >> 10} KiB; make a smaller one"
        )
    own = {f.name for f in fields(Attribute)} | {"format_version"}
    clash = next((key for key in attribute.extra if key in own), None)
    if clash is not None:
        raise ESCDiffError(
            f"the attribute's extra entry {clash!r} has the name of a field; choose another name"
        )


def is_text(value: Any) -> bool:
    """May ``value`` be the token, the word and the like of an attribute?"""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and (value.isprintable() or not value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # false for NaN too
