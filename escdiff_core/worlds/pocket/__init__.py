"""The pocket world: drawn pictures whose mask, shape and appearance are known exactly, and a small model
trained on them."""

from ...registry import Tower, World
from . import config


def _tower() -> Tower:
    from safetensors.torch import load_file

    from .train_clip import build_vision

    network = build_vision()
    network.load_state_dict({k: v.float() for k, v in load_file(config.VISION_CHECKPOINT).items()})
    return Tower(network, config.NATIVE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _view_sources():
    from .views import VIEW_SOURCES

    return VIEW_SOURCES


def _words():
    from .views import own_words

    return own_words()


def _examples(count: int, seed: int, size: int):
    from .examples import examples_from_world

    return examples_from_world(count, seed, size)


WORLD = World(name="pocket", checkpoint=config.CHECKPOINT, guidance=config.GUIDANCE, filters=config.FILTERS,
              tower_file=config.VISION_CHECKPOINT, read_tower=_tower, view_sources=_view_sources,
              words=_words, examples=_examples,
              recipes={"shape": "escdiff-shape", "appearance": "escdiff-appearance"})
