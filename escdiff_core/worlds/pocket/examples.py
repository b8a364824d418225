"""Pictures of the world for the filters to be trained on, with the words for everything but the attribute."""

from ...learning.train_filters import Example
from .captions import appearance_phrase
from .world import SIZE, render, training_spec


def examples_from_world(count: int, seed: int, size: int = SIZE) -> list[Example]:
    """Training pictures of the pocket world (nothing held out), ``size`` pixels a side, with the words for
    the rest."""
    examples = []
    for i in range(count):
        spec = training_spec(seed, i)
        examples.append(
            Example(
                render(spec, size).image, {"shape": appearance_phrase(spec), "appearance": spec.shape},
                f"on a {spec.background} background"))
    return examples
