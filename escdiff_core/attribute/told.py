"""An attribute in words, for people; ``Attribute.describe`` has all of it, for programs."""

from .file import Attribute

KINDS = {"shape": "Shape", "appearance": "Look", "concept": "Concept"}
FORMS = {"full": "whole weights", "none": "the token alone"}


def in_words(attribute: Attribute) -> list[str]:
    """What was learned, from what, how, and on which model: one short line each, the most asked for first."""
    told = attribute.describe()
    form = FORMS.get(told["form"]) or f"LoRA, rank {' and '.join(map(str, told['ranks']))}"
    vectors = sum(rows for rows, *_ in told["token_vectors"].values())
    lines = [
        f"{KINDS[attribute.kind]}: write {attribute.token} in prompts",
        f"Recipe: {attribute.recipe}, {attribute.steps} steps, seed {attribute.seed}",
        f"Trained: {form}"
        + (f", {len(attribute.blocks)} blocks ({attribute.preset})" if attribute.delta else ""),
        f"Change of the weights: {told['delta_norm']:.3g} (norm)" if attribute.delta else "",
        f"Last loss: {attribute.losses['final']:.3g}" if "final" in attribute.losses else "",
        f"Size: {told['megabytes']:.2f} MB, token of {vectors} vector{'s' * (vectors != 1)}",
        f"Model: {attribute.base_fingerprint[:12]} (a mix needs the same for both)",
    ]
    return [line for line in lines if line]
