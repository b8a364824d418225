"""Runs inside one real ComfyUI's environment: prompts with tokens against the stock node's with plain words,
as JSON.

``python host_probe_prompts.py HOST BASE PACK``; called by test_host_prompts.py.
"""

import asyncio
import gc
import json

from host_probe_base import BASE, PACK, core, found, host_nodes, largest, node, stock, torch
from safetensors.torch import save_file

WORD, OTHER = "photo", "blue"       # one id each in the pocket's vocabulary and in CLIP's
FORMS = {
    "weight": "a (*m:1.3) on a table", "nested": "a ((*m)) on a table",
    "negative weight": "a (*m:-0.5) on a table", "weight 0": "a (*m:0) on a table",
    "weights in weights": "((a *m:1.2) with (*a:0.7) things:1.1)", "escaped": r"a \(*m\) on a table",
    "escaped in a weight": r"a (\(*m\) on:1.2) a table", "brackets": "a [*a] on a [*m]",
    "behind a weight": "(a cat:*m)", "comma": "a *m, on a table", "full stop": "a *m. A table.",
    "colon": "*m: a table", "genitive": "the *m's table", "quoted": "the '*m' and \"*a\"",
    "hyphen": "a *m-like *a-coloured table", "BREAK": "a *m BREAK a table BREAK *a",
    "newlines": "a *m\non a\n\n*a table\n*m",
    "emoji": "a 🦋*m🦋 and 👩‍🎨 *a", "first and last": "*m table *a",
    "alone": "*m", "twice": "*m *m *a *m", "none": "a table", "empty": "",
    "upper case around": "A *m ON A TABLE",
    "its letters in the text": "q z x j k v w u y q: *m q *a j z x iraq",
    "300 words": "a table with *m and a chair, " * 43, "300 words in a weight": "(" +
    "a table with *m and *a, " * 43 + ":1.1)", "a file before": "a embedding:probe *m table",
    "a file behind": "a *m embedding:probe table", "a file with a comma": "a embedding:probe, *m",
    "a file in a weight": "a (embedding:probe *m:1.2)", "a file behind a line": "a *m\nembedding:probe", **{
        f"cut at {count}": "a " * count + "*m, *a table"
        for count in (72, 73, 74, 75, 76, 149)
    }, **{f"weight cut at {count}": "a " * count + "(*m *a:1.2) table"
          for count in (72, 73, 74, 75)}, **{
        f"long weight cut at {count}": "a " * count + "(a *m on a table with a chair and *a:1.2)"
        for count in (66, 72, 74)
    },
}
APART = {  # where a plain word would need spaces
    "Chinese": ("一张*m的照片", "一张 {} 的照片"),
    "Japanese": ("*mの写真、青い*aも", "{} の写真、青い {other} も"),
    "Korean": ("*m의 사진", "{} 의 사진"),
    "Thai": ("ภาพ*mบนโต๊ะ", "ภาพ {} บนโต๊ะ"),
    "glued": ("a photo of*m", "a photo of {}"),
    "two in one": ("a *m*a table", "a {} {other} table"),
    "behind a number": ("a 2*m table", "a 2 {} table"),
}

UNEVEN = {
    "one ) too many": "a *m) on (a table:1.3)", "one ( too many": "a ((*m:1.2) on a table",
    "open": "a (*m:1.3", "no number": "a (*m:much) on a table", "only a number": "(:1.3) *m",
    "words behind": "a (*m:1.3) " + "a " * 80
}


def differences(clip, knowing, words: str) -> dict[str, float]:
    """For each form the difference between the stock node with tokens and with ``words`` in their places."""
    pairs = {name: (text, text.replace("*m", words).replace("*a", OTHER)) for name, text in FORMS.items()}
    pairs |= {name: (text, plain.format(words, other=OTHER)) for name, (text, plain) in APART.items()}
    return {
        name: difference(encoded(knowing, text), encoded(clip, plain))
        for name, (text, plain) in pairs.items()
    }


def headless(knowing) -> dict[str, float]:
    """For each form without a file the difference to what the core gives, on the pocket model, with the same
    vectors."""
    model = core("escdiff_core.families.load").load_model("pocket", "cpu")
    encode, known = (
        core("escdiff_core.model.weighted").encode_weighted,
        knowing.tokenizer.tokenize_with_weights.vectors,
    )
    tokens = {name: own["clip_l"] for name, own in known.items()}
    texts = {**FORMS, **{name: text for name, (text, _) in APART.items()}, **UNEVEN}
    return {name: difference(encoded(knowing, text), encode(model, [text], tokens).context)
            for name, text in texts.items() if "embedding:" not in text}


def encoded(clip, text: str):
    return stock("CLIPTextEncode", "encode", clip=clip, text=text)[0][0][0]


def difference(a, b) -> float:
    return largest(a, b) if a.shape == b.shape else float("inf")


def knows(clip, words: str = WORD):
    """``clip`` with tokens that are nothing but plain words."""
    prompts = core("nodes.host.prompts")
    vectors = {"*m": {e: prompts.words_of(clip, e).rows(words) for e in prompts.encoders_of(clip)},
               "*a": {e: prompts.words_of(clip, e).rows(OTHER) for e in prompts.encoders_of(clip)}}
    return prompts.clip_with_tokens(clip, vectors)


def on_the_way(clip) -> dict[str, float]:
    """A CLIP with tokens through the nodes that change a CLIP, before and behind."""
    text, plain, found = "a (*m:1.2) on a *a table", f"a ({WORD}:1.2) on a {OTHER} table", {}
    ways = {
        "clone": lambda c: c.clone(),
        "layer": lambda c: stock("CLIPSetLastLayer", "set_last_layer", clip=c, stop_at_clip_layer=-2)[0],
        "LoRA": lambda c: stock("LoraLoader", "load_lora", model=None, clip=c, lora_name="words.safetensors",
                                strength_model=1.0, strength_clip=1.0)[1]
    }
    for name, way in ways.items():
        found[f"{name} behind"] = difference(encoded(way(knows(clip)), text), encoded(way(clip), plain))
        found[f"{name} before"] = difference(encoded(knows(way(clip)), text), encoded(way(clip), plain))
    other = clip.clone()                    # a merge changes the table itself
    table = core("nodes.host.prompts").TABLE.format("clip_l")
    weight = clip.patcher.get_key_patches(table)[table][0][0]
    other.add_patches({table: (torch.randn(weight.shape, dtype=weight.dtype),)}, 0.5, 0.5)
    found["merge before"] = difference(encoded(knows(other), text), encoded(other, plain))
    found["merge changes"] = difference(encoded(other, plain), encoded(clip, plain))
    return found


def two_towers() -> list:
    """What two text encoders get for a token with vectors for each, beside a plain word: the words of
    SDXL."""
    import comfy.sdxl_clip

    usual = comfy.sdxl_clip.SDXLTokenizer().tokenize_with_weights
    vectors = {"clip_l": torch.full((2, 3), 1.0), "clip_g": torch.full((2, 5), 2.0)}
    tokenize = core("nodes.host.prompts").Tokenize(usual, {"*m": vectors})
    text = "a " * 73 + "*m, on a (*m:1.2) table"
    made, plain = tokenize(text), usual(text.replace("*m", f"{WORD} {OTHER}"))
    word, other = (usual(w)["l"][0][1][0] for w in (WORD, OTHER))
    seen = []
    for tower, chunks in plain.items():
        pairs = [(ours, theirs) for row, other_row in zip(made[tower], chunks, strict=True)
                 for ours, theirs in zip(row, other_row, strict=True)]
        seen.append(
            [
                tower,
                sorted({(*o[0].shape, float(o[0][0])) for o, _ in pairs if torch.is_tensor(o[0])}),
                all((t[0] in (word, other)) if torch.is_tensor(o[0]) else o == t for o, t in pairs),
                sum(torch.is_tensor(o[0]) for o, _ in pairs),
                all(o[1] == t[1] for o, t in pairs),
            ]
        )
    return seen


def tables(clip) -> int:
    """How many tensors as large as the table of words are alive."""
    gc.collect()
    size = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.numel()
    return sum(isinstance(o, torch.Tensor) and o.numel() == size for o in gc.get_objects())


def main() -> None:
    import comfy_api.latest  # noqa: F401 - ComfyUI itself has it by then

    asyncio.run(host_nodes.load_custom_node(str(PACK)))
    torch.manual_seed(0)
    (BASE / "models" / "loras").mkdir(exist_ok=True)
    (BASE / "models" / "embeddings").mkdir(exist_ok=True)
    found["two towers"] = two_towers()
    with torch.inference_mode():
        _, pocket, _, _ = node("ESCDiffLoadPocketModel")
        sd15 = stock(
            "CheckpointLoaderSimple", "load_checkpoint", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"
        )[1]
        for name, clip in (("pocket", pocket), ("sd15", sd15)):
            layers = clip.cond_stage_model.clip_l.transformer.state_dict()
            out, width = layers["text_model.encoder.layers.0.mlp.fc1.weight"].shape
            save_file(
                {"emb_params": torch.randn(2, width)}, BASE / "models" / "embeddings" / "probe.safetensors"
            )
            module = "lora_te_text_model_encoder_layers_0_mlp_fc1"
            save_file(
                {
                    f"{module}.lora_up.weight": torch.randn(out, 4),
                    f"{module}.lora_down.weight": torch.randn(4, width), f"{module}.alpha": torch.tensor(4.0)
                }, BASE / "models" / "loras" / "words.safetensors")
            found[name] = differences(clip, knows(clip), WORD)
            if clip is pocket:
                found["headless"] = headless(knows(clip, "house photo"))
                found["two words"] = differences(clip, knows(clip, "house photo"), "house photo")
            found[f"{name}, on the way"] = on_the_way(clip)
            before, kept = tables(clip), [knows(clip) for _ in range(3)]
            found[f"{name}, copies of the table"] = tables(clip) - before
            found[f"{name}, it acts"] = difference(encoded(kept[0], "a *m"), encoded(clip, "a *m"))
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
