"""The pocket model's own small CLIP vocabulary: byte pairs learned on the world's words, so that any text can
be read."""

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from .captions import vocabulary
from .config import VOCABULARY_SIZE

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build_vocabulary() -> dict:
    """Learn byte-pair merges until each word of the world is one token.

    Returns ``{"vocab": {token: id}, "merges": ["a b", …]}`` in CLIP's layout: bytes, bytes that end a word,
    merges, spare tokens up to ``VOCABULARY_SIZE``, begin and end of text last (so that the end has the
    highest id, as in CLIP).
    """
    words = sorted(vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        words,
        trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>",
                            show_progress=False))
    merges = [tuple(pair) for pair in _merges(learner)]
    tokens = alphabet + [b + "</w>" for b in alphabet] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens))
    spare = VOCABULARY_SIZE - 2 - len(tokens)
    if spare < 0:
        raise ValueError(f"{len(tokens)} tokens do not fit a vocabulary of {VOCABULARY_SIZE}")
    tokens += [f"<|spare{i}|>" for i in range(spare)] + [BOS, EOS]
    return {
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [" ".join(pair) for pair in merges],
    }


def _merges(tokenizer: Tokenizer) -> list:
    import json

    return [
        m.split(" ") if isinstance(m, str) else m for m in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
