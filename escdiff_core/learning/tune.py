"""Stage 3: attribute-aware tuning of a token and some UNet blocks on one reference, on a private copy.

``L_LDM = E || eps - eps_theta(x_t, t, tau(prompt with the token)) ||^2`` (Rombach et al. 2022), weighted by the mask. Only
the blocks of the recipe's preset get gradients. Each step draws from its own seed, so that a resumed run equals an unbroken one.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..attribute import Attribute
from ..attribute.file import LONGEST_TEXT, is_text
from ..errors import ESCDiffError, is_out_of_memory
from ..model.load import DiffusionModel
from ..model.sample import image_to_latents
from ..reference import Reference
from ..unet.blocks import find_preset
from ..unet.copy import tensors_of
from ..unet.halves import EncoderFeatures, decode, encode
from ..unet.route import install
from ..unet.tokens import lost_rows, vector_count
from ..unet.words import merge, starting_word
from .batches import Draws, pool_rows
from .features import ReferenceEncoder, ReferenceFeatures, reference_features
from .filters import AttributeFilter, make_filter
from .forms import FORMS
from .lean import for_training
from .precision import autocast
from .recipes import Recipe
from .snapshots import load_snapshot, try_to_save_snapshot
from .texts import TrainingTexts
from .views import prepare_views

log = logging.getLogger(__name__)
STATE_BYTES = 20  # of a trained number: weight, gradient, two moments and the average, all fp32
REUSE = 1.2       # of a cached draw: used 1.72 times they may cost quality, and 1.2 still saves the time that is asked for


@dataclass(frozen=True)
class Progress:
    """What a callback is told after each step; ``attribute()`` builds what has been learned so far, for previews."""

    step: int
    steps: int
    loss: float
    attribute: Callable[[], Attribute] = field(repr=False)


@dataclass
class Report:
    """Figures of one run: seconds, steps per second, trained parameters, bytes of trained state, and the losses."""

    seconds: float = 0.0
    steps_per_second: float = 0.0
    trained_parameters: int = 0
    trained_state_bytes: int = 0
    losses: list[float] = field(default_factory=list)


def trained_blocks(recipe: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    """The blocks that ``recipe`` trains of a UNet with tensors of these ``names``."""
    return find_preset(recipe.preset).blocks("concept" if recipe.joint else recipe.kind, names)


def expected_state_bytes(model: DiffusionModel, recipe: Recipe) -> int:
    """What a run will keep of the weights it trains whole, before it begins; what other forms add beside them is small."""
    names = tensors_of(model.unet, trained_blocks(recipe, list(model.unet.state_dict())), recipe.scope)
    weights = model.unet.state_dict()
    return STATE_BYTES * sum(weights[n].numel() for n in names) if recipe.form == "full" else 0


class Tuner:
    """One run of a recipe on one reference. ``step()`` takes one optimiser step; ``attribute()`` is what has been learned.

    The caller's ``model`` stays bit-identical: trainable tensors are clones, frozen ones are shared and never written.
    ``checkpointing`` keeps fewer activations and computes them again going back (Chen et al. 2016): same gradients, less
    memory, more time. ``precision``: see precision.autocast. ``features``: those of the references, if they were read before.
    ``preparing(done, total)`` hears of pictures that are drawn and encoded before the first step, and may raise to cancel.
    """

    def __init__(self, model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int = 0,
                 describe: str = "", class_word: str = "", encoder: ReferenceEncoder | None = None,
                 network: AttributeFilter | None = None, token: str | None = None, checkpointing: bool = False,
                 precision: str = "auto", features: ReferenceFeatures | None = None,
                 preparing: Callable[[int, int], None] | None = None):
        self.model, self.recipe, self.seed, self.references = model, recipe, seed, list(references)
        class_word = " ".join(class_word.split())
        self.token, self.describe, self.class_word = token or recipe.token, describe, class_word
        if len(self.token.split()) != 1:
            raise ESCDiffError(f"the token is {self.token!r}; needed: one word without spaces, such as {recipe.token}")
        for what, text in (("token", self.token), ("class word", class_word)):       # a file could not hold it
            if not is_text(text):
                raise ESCDiffError(f"the {what} is {text[:80]!r}; needed: at most {LONGEST_TEXT} letters, all of them visible")
        if not 0 <= seed < 2**64:
            raise ESCDiffError(f"the seed is {seed}; needed: a whole number from 0 to 2**64 - 1")
        # What a shape is of starts its token and stands for it; with an appearance it is a word of the prompt
        named = class_word if recipe.kind != "appearance" else ""
        self.init_word, self.plain = recipe.init_word, named or recipe.word
        if named and recipe.lr_token:            # a token that stays at its word must not be the plain one
            self.init_word = named
        self.done, self.report, self.checkpointing, self.precision = 0, Report(), checkpointing, precision
        self.fresh = True           # nothing of this run is on disk yet
        names = list(model.unet.state_dict())
        self.blocks, self.kept = trained_blocks(recipe, names), find_preset(recipe.preset).blocks(recipe.kind, names)
        self.views = prepare_views(model, self.references, recipe, seed, describe, self.plain, preparing)
        self.draws = Draws(self.views, recipe, model.schedule, self.token, self.plain,
                           class_word if recipe.kind == "appearance" else "")
        self.word = starting_word(model, self.init_word)                                       # (dim,)
        self._choose_filter(network, features, encoder)
        self.offset = nn.Parameter(torch.zeros(vector_count(recipe.layout, names), len(self.word), device=self.word.device),
                                   requires_grad=recipe.lr_token > 0)
        self._build_unet()
        self._build_optimizer()
        self.pool: tuple | None = None

    def _choose_filter(self, network: AttributeFilter | None, features: ReferenceFeatures | None,
                       encoder: ReferenceEncoder | None) -> None:
        """The filter that starts the token: the given one, a fresh one that trains along, or none for recipes of scale 0."""
        self.features, self.network, self.filter_trains, self.filter_scale = features, None, False, self.recipe.filter_scale
        if not self.filter_scale:
            return
        if features is None:
            self.features = self._read_features(encoder)
        self.filter_trains = network is None
        self.network = network if network is not None else make_filter(self.model, self.features, self.seed)
        if self.network.scale is not None:
            self.filter_scale = self.network.scale
        clip = 0 if self.features.clip is None else len(self.features.clip)
        needed = self.network.widths["clip_width"]
        if needed not in (0, clip):
            raise ESCDiffError(f"the filter was trained with an encoder of width {needed}, this one's is {clip}; give "
                               "the same encoder, or train filters for this one")

    def _read_features(self, encoder: ReferenceEncoder | None) -> ReferenceFeatures:
        latents = torch.cat([image_to_latents(self.model, r.image[None]) for r in self.references])
        images = torch.from_numpy(np.stack([r.image for r in self.references]))
        return reference_features(self.model, latents, images, self.recipe.feature_timestep, encoder, self.seed)

    def _build_unet(self) -> None:
        model, recipe = self.model, self.recipe
        names = tensors_of(model.unet, self.blocks, recipe.scope)
        self.trained = FORMS[recipe.form](model.unet, names, recipe.rank, self.seed)
        self.unet, self.weights = self.trained.unet, self.trained.parameters
        encoder, self.masters = for_training(self.unet, model.text_encoder, model.device, self.precision)
        self.texts = TrainingTexts(replace(model, text_encoder=encoder), self.blocks, self.plain, recipe.plain_share, recipe.layout,
                                   self.trained.slots)
        self.route = self.texts.route
        hidden = self.texts.hides and recipe.plain_share == 1          # slot 0 never sees the token
        install(self.unet, self.route, constant=(0,) if hidden else (), packed=self.blocks if self.trained.slots else ())
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        # Neither its weights nor its prompt change
        self.encoder_frozen = hidden and all(b.startswith(("up_blocks", "conv_out")) for b in self.blocks)
        if recipe.cached and not self.encoder_frozen:
            raise ESCDiffError(f"recipe {recipe.name!r} cannot cache encoder features: with preset {recipe.preset!r} the encoder "
                               "trains or sees the token; use a decoder-only one such as escdiff-appearance-paper")

    def _build_optimizer(self) -> None:
        recipe = self.recipe
        weights = list(self.weights.values())
        if self.masters is not None:
            weights = [self.masters.flat, *(w for w in weights if w not in self.masters)]
        groups = [{"params": weights, "lr": recipe.lr_weights}] if weights else []
        groups.append({"params": [self.offset], "lr": recipe.lr_token})
        if self.filter_trains:
            groups.append({"params": list(self.network.parameters()), "lr": recipe.lr_filter})
        for group in groups:
            group["peak"] = group["lr"]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        trained = self.trained_tensors()
        self.average = [p.detach().clone() for p in trained]
        self.report.trained_parameters = sum(p.numel() for p in trained)
        self.report.trained_state_bytes = STATE_BYTES * self.report.trained_parameters

    def trained_tensors(self) -> list[torch.Tensor]:
        """What the optimiser moves, in its order, without gradients."""
        return [p.detach() for group in self.optimizer.param_groups for p in group["params"]]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While open, the trained tensors are the average over the last steps, which is what an attribute keeps.

        The rate stays constant and the average takes the place of its decay (Polyak and Juditsky 1992), so that what has been
        learned is as good as it gets at every step: a run may be longer, stopped early, or an earlier snapshot picked.
        """
        live, trained = [p.clone() for p in self.trained_tensors()], self.trained_tensors()
        torch._foreach_copy_(trained, self.average)
        if self.masters is not None:
            self.masters.refresh()         # back with the next step
        try:
            yield
        finally:
            torch._foreach_copy_(trained, live)

    # -- one step -----------------------------------------------------------------------------------------------------

    def vector(self) -> torch.Tensor:
        """The token's vectors as they stand, (n, dim), at the norm of its word."""
        if self.network is None:
            return merge(self.word, self.offset)
        out = self.network(self.features.unet, self.features.clip)
        return merge(self.word, self.filter_scale * out * self.word.norm() + self.offset)

    def kept_vectors(self) -> torch.Tensor:
        """The vectors that the attribute keeps, (n, dim); those of other layers or stages are the word's."""
        with torch.no_grad():
            vectors = self.vector()
        vectors[lost_rows(self.recipe.layout, self.recipe.stages, self.kept, self.model.unet.state_dict())] = self.word
        return vectors.cpu()

    def _fill_pool(self) -> None:
        """Encode a pool of draws once: exact while neither the encoder nor its prompt changes."""
        batch = self.recipe.batch_size
        batches = max(round(self.recipe.pool / batch if self.recipe.pool else self.recipe.steps / REUSE), 1)
        drawn, parts = self.draws(np.random.default_rng((self.seed, 13)), batches * batch), []
        for start in range(0, len(drawn.prompts), 32):
            part = drawn.pick(torch.arange(start, min(start + 32, len(drawn.prompts))))
            parts.append(self._encode(part.x, part.t, self.texts.nothing_learned(part.prompts, [self.token])))
        self.pool = drawn, EncoderFeatures(torch.cat([p.sample for p in parts]),
                                           tuple(map(torch.cat, zip(*(p.skips for p in parts), strict=True))),
                                           torch.cat([p.emb for p in parts]))

    def _encode(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> EncoderFeatures:
        return encode(self.unet, x, t, context, grad=not self.encoder_frozen)

    def loss(self) -> torch.Tensor:
        """The loss of the next step, with its graph."""
        if self.masters is not None:
            self.masters.refresh()
        rng = np.random.default_rng((self.seed, 12, self.done))
        if self.recipe.cached and self.pool is None:
            with autocast(self.model.device, self.precision):
                self._fill_pool()
        if self.pool is not None:
            rows = pool_rows(len(self.pool[0].prompts), self.recipe.batch_size, self.done, self.seed)
            drawn, features = (part.pick(rows) for part in self.pool)
        else:
            drawn, features = self.draws(rng, self.recipe.batch_size), None
        with autocast(self.model.device, self.precision):
            context = self.texts(rng, drawn.prompts, {self.token: self.vector()}, drawn.t, drawn.alone)
            if features is None:
                features = self._encode(drawn.x, drawn.t, context)
            error = (decode(self.unet, features, context).float() - drawn.target).square()  # (b, 4, h, w)
        return (error * self.views.weights[drawn.index]).mean()

    def step(self) -> float:
        """Take one step; returns its loss. Raises ESCDiffError when memory runs out, with what to lower."""
        recipe = self.recipe
        warm = min(1.0, (self.done + 1) / max(recipe.warmup_steps, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * warm
        try:
            loss = self.loss()
            loss.backward()
            if self.masters is not None:
                self.masters.collect()
            self._clip()
            self.optimizer.step()
            self.trained.after(self.done)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory() from error
            raise
        finally:
            if self.masters is not None:
                self.masters.forget()
            self.optimizer.zero_grad(set_to_none=True)    # a step that failed leaves nothing for the next one to add to
        self.done += 1
        torch._foreach_lerp_(self.average, self.trained_tensors(), 1 / (1 + recipe.average * (self.done - 1)))
        self.report.losses.append(float(loss.detach()))
        if not math.isfinite(self.report.losses[-1]):
            raise ESCDiffError(f"the loss of step {self.done} is {self.report.losses[-1]}: the learning ran away; take fewer "
                               "steps or another recipe")
        return self.report.losses[-1]

    def _clip(self, most: float = 1.0) -> None:
        """Bring the gradients to a norm of at most ``most``."""
        grads = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(grads)).norm()
        if norm.device.type != "cpu" or norm > most:               # a GPU is not asked: it would have to be waited for
            torch._foreach_mul_(grads, (most / (norm + 1e-6)).clamp(max=1.0))

    def _out_of_memory(self) -> ESCDiffError:
        need = self.report.trained_state_bytes / 2**30
        return ESCDiffError(f"out of memory: the trained weights alone need {need:.1f} GiB and a batch of "
                            f"{self.recipe.batch_size} its activations on top; switch checkpointing on, lower the "
                            "batch size or use a -lora recipe")

    # -- the whole run ------------------------------------------------------------------------------------------------

    def attribute(self) -> Attribute:
        """What has been learned so far, as it would be saved."""
        recent = self.report.losses[-20:]
        with self.averaged():
            vectors, delta = self.kept_vectors(), self.trained.delta(self.kept)
        return Attribute(
            kind=self.recipe.kind, token=self.token, word=self.plain, embeddings={"clip_l": vectors},
            delta=delta, blocks=self.kept, recipe=self.recipe.name,
            recipe_hash=self.recipe.hash(), preset=self.recipe.preset, base_fingerprint=self.model.fingerprint,
            steps=self.done, seed=self.seed, losses={"final": float(np.mean(recent)) if recent else 0.0},
            reference_hash=self.references[0].hash, thumbnail=self.references[0].thumbnail(),
            reach=self.recipe.reach, layout=self.recipe.layout, extra={"init_word": self.init_word},
        ).quantised()

    def run(self, on_step: Callable[[Progress], None] | None = None, snapshots: Path | None = None,
            snapshot_every: int = 50, resume: bool = False) -> Attribute:
        """Take the remaining steps and return the attribute.

        ``on_step`` may raise to cancel; what was learned up to then is in ``snapshots``, from where ``resume`` goes on.
        Every ``snapshot_every`` steps (0: not before) the attribute so far is kept as ``step-000050.safetensors``.
        """
        if resume and snapshots is not None:
            load_snapshot(self, snapshots)
        log.info("learning %s with %s: %s parameters in %d blocks (%s), about %.2f GiB of trained state",
                 self.recipe.kind, self.recipe.name, f"{self.report.trained_parameters:,}", len(self.blocks),
                 ", ".join(self.blocks), self.report.trained_state_bytes / 2**30)
        start, first = time.monotonic(), self.done
        try:
            while self.done < self.recipe.steps:
                loss = self.step()
                if on_step is not None:
                    on_step(Progress(self.done, self.recipe.steps, loss, self.attribute))
                if snapshots is not None and snapshot_every and self.done % snapshot_every == 0:
                    try_to_save_snapshot(self, snapshots)
        except BaseException:      # Ctrl-C and the host's interruption are no Exceptions, and must not lose what was learned
            if snapshots is not None and self.done > first and math.isfinite(self.report.losses[-1]):
                try_to_save_snapshot(self, snapshots)
            raise
        self.report.seconds = time.monotonic() - start
        self.report.steps_per_second = (self.done - first) / max(self.report.seconds, 1e-9)
        log.info("learned in %.1f s, %.2f steps/s", self.report.seconds, self.report.steps_per_second)
        return self.attribute()
