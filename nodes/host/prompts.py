"""Prompts with learned tokens through the host's own CLIP: weights, long prompts and CLIP skip work as everywhere."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.model.text import split_placeholders

MARK = "embedding:escdiff-token-"    # what a placeholder becomes inside the tokenizer


@dataclass(frozen=True)
class HostText:
    """What the core needs of a text encoder to look up words: the host's embedding table and tokenizer."""

    text_encoder: object
    tokenizer: object
    device: torch.device

    @classmethod
    def of(cls, clip) -> "HostText":
        inner, table = clip.tokenizer.clip_l.tokenizer, clip.cond_stage_model.clip_l.transformer.get_input_embeddings()
        rows = torch.nn.Embedding.from_pretrained(table.weight.detach().float().cpu().clone())
        return cls(_Table(rows), inner, torch.device("cpu"))


@dataclass(frozen=True)
class _Table:
    rows: torch.nn.Embedding

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.rows


def clip_with_tokens(clip, vectors: Mapping[str, torch.Tensor]):
    """A clone of ``clip`` whose prompts know ``vectors``: placeholder to (n, dim). The original does not change.

    ``*m``, ``(*m:1.3)`` and ``*m,`` all work, in every node that takes the CLIP. A token known from an earlier call stays.
    """
    outer = copy.copy(clip.tokenizer)
    inner = copy.copy(outer.clip_l)
    known = {**getattr(inner, "escdiff_tokens", {}), **{n: v.detach().float().cpu() for n, v in vectors.items()}}
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.shape[1]
    for name, rows in known.items():
        if rows.shape[-1] != width:
            raise ESCDiffError(f"the token {name!r} is {rows.shape[-1]} wide, this CLIP's words are {width}; load the model it "
                               "was learned on")
    usual = getattr(type(inner), "escdiff_usual", type(inner))      # never marks in a text that is marked already
    numbers = {name: i for i, name in enumerate(known)}

    class WithTokens(usual):
        escdiff_usual = usual

        def tokenize_with_weights(self, text, *args, **kwargs):
            pieces = split_placeholders(text, list(numbers))
            marked = "".join(f" {MARK}{numbers[p]} " if is_token else p for p, is_token in pieces)
            return super().tokenize_with_weights(marked, *args, **kwargs)

        def _try_get_embedding(self, embedding_name):
            name, _, leftover = embedding_name.partition(" ")
            number = name.removeprefix(MARK.removeprefix("embedding:"))
            if number != name and number.isdecimal():
                return list(self.escdiff_tokens.values())[int(number)], leftover.strip()
            return super()._try_get_embedding(embedding_name)

    inner.__class__, inner.escdiff_tokens = WithTokens, known
    inner.embedding_directory = inner.embedding_directory if inner.embedding_directory is not None else []
    outer.clip_l = inner
    made = clip.clone()
    made.tokenizer = outer
    return made


def encode(clip, text: str) -> list:
    """The host's CONDITIONING for ``text``: what its own text node gives."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
