"""What sampling a mix costs inside a host, against the same model without attributes, and what mixing again
and again leaves behind; a part of host_probe.py."""

import gc
import statistics
import time

from host_probe_base import draw, empty, found, node, stock, torch
from host_probe_more import PROMPT
from hosts import EVERYWHERE
from torch.utils.flop_counter import FlopCounterMode

STRENGTHS = 5


def sampled(model, clip, made) -> dict:
    """What samples a mix, and the same model without attributes: call one of the two with a number of
    steps."""
    plain = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a photo of a red star", "")]
    mixed = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made)[:3]

    def way(unet, positive, negative):
        return lambda steps: stock("KSampler", "sample", model=unet, seed=1, steps=steps, cfg=3.0,
                                   sampler_name="dpmpp_2m", scheduler="normal", positive=positive, negative=
                                   negative, latent_image=empty(2, 16), denoise=1.0)

    return {"plain": way(model, *plain), "mixed": way(*mixed)}


def work(model, clip, made):
    """How many multiplications sampling a mix takes, against the same model without attributes."""
    counts = {}
    for name, way in sampled(model, clip, made).items():
        way(1)                        # the weights change hands, once for all pictures of a mix
        with FlopCounterMode(display=False) as counter:
            way(2)
        counts[name] = counter.get_total_flops()
    found["mixing_work"] = counts["mixed"] / counts["plain"]


def timing(model, clip, made, pairs: int = 4, steps: int = 6, clock=time.process_time):
    """Seconds of the stock KSampler on a mix against the same model without attributes, in interleaved pairs.

    ``clock`` counts the processor's: other tests run beside this one.
    """
    ways = sampled(model, clip, made)
    spent = {name: [] for name in ways}

    def seconds(way) -> float:
        began = clock()
        way(steps)
        return clock() - began

    for way in ways.values():
        way(steps)
    for i in range(pairs):
        for name in sorted(ways, reverse=bool(i % 2)):
            ways[name](2)             # the weights change hands; what is timed is the sampling behind it
            spent[name].append(seconds(ways[name]))
    found["mixing_ratio"] = statistics.median(
        m / p for m, p in zip(spent["mixed"], spent["plain"], strict=True)
    )
    found["sampling_seconds"] = {name: statistics.median(values) for name, values in spent.items()}


def again(model, clip, made):
    """Mixes at five strengths in turn, each five times, ten times where ESCDIFF_EVERYWHERE is set: which
    pictures differ from the first of their strength, and by how many bytes all tensors that are alive have
    grown since the first of each."""
    firsts, differing, alive = {}, [], []
    for turn in range(STRENGTHS * (10 if EVERYWHERE else 5)):
        strength = 1 - turn % STRENGTHS / STRENGTHS
        mixed = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made,
                     shape_strength=strength)
        picture = draw(*mixed[:3], steps=1)
        if not torch.equal(picture, firsts.setdefault(strength, picture)):
            differing.append(turn)
        if turn % STRENGTHS == STRENGTHS - 1:
            del mixed, picture
            alive.append(bytes_alive())
    found["mixes"] = {"differing": differing, "strengths": len({float(p.sum()) for p in
                            firsts.values()}), "grown": [more - alive[0] for more in alive[1:]]}


def bytes_alive() -> int:
    """Of all tensors, each storage once."""
    gc.collect()
    storages = [o.untyped_storage() for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
