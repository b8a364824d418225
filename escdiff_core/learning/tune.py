"""Stage 3: attribute-aware tuning of a token and some UNet blocks on one reference, on a private copy.

``L_LDM = E || eps - eps_theta(x_t, t, tau(prompt with the token)) ||^2`` (Rombach et al. 2022), weighted by
the mask. Only the blocks of the recipe's preset get gradients. Each step draws from its own seed, so that a
resumed run equals an unbroken one.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..attribute import Attribute
from ..errors import ESCDiffError, is_out_of_memory
from ..families import usual_names
from ..model.conditioning import Conditioning
from ..model.diffusion import DiffusionModel
from ..model.names import anatomy, unet_map
from ..model.text import Vectors
from ..reference import Reference
from ..unet.blocks import find_preset
from ..unet.copy import tensors_of
from ..unet.halves import EncoderFeatures, decode, encode
from ..unet.route import install
from ..unet.tokens import lost_rows, vector_count
from .batches import Draw, Draws, pool_rows
from .fit import Fit, no_room, shrink
from .forms import FORMS
from .lean import for_training
from .names import Names
from .optimise import Optimizer
from .precision import autocast
from .preview import draw_so_far
from .recipes import Recipe
from .report import STATE_BYTES, Progress, Report, trained_blocks
from .snapshots import RunState, drop_earlier, save_snapshot
from .start import Start
from .texts import TrainingTexts
from .views import Views

log = logging.getLogger(__name__)
# of a cached draw: used 1.72 times they may cost quality, and 1.2 still saves the time that is asked for
REUSE = 1.2


class Tuner:
    """One run of a recipe: what learn.prepare has made ready is learned step by step.

    ``step()`` takes one optimiser step; ``attribute()`` is what has been learned. The caller's ``model``
    stays bit-identical: trainable tensors are clones, frozen ones are shared and never written.
    ``fit``: how much of a batch is computed at once, a whole one if nobody says; see fit.choose.
    ``precision``: see precision.autocast.
    """

    def __init__(self, model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int,
                 names: Names, views: Views, start: Start, fit: Fit | None = None,
                 precision: str = "auto"):
        self.model, self.recipe, self.seed, self.references = model, recipe, seed, list(references)
        self.names, self.views, self.start = names, views, start
        # fresh: nothing of this run is on disk yet
        self.done, self.report, self.fresh, self.precision = 0, Report(), True, precision
        tensors = list(model.unet.state_dict())
        self.blocks = trained_blocks(recipe, tensors)
        self.kept = find_preset(recipe.preset).blocks(recipe.kind, tensors)
        self.draws = Draws(views, recipe, model.schedule, names.token, names.plain,
                           names.subject(recipe.kind))
        width = sum(len(word) for word in start.words.values())
        count = vector_count(recipe.layout, tensors)
        self.offset = nn.Parameter(torch.zeros(count, width, device=model.device), recipe.lr_token > 0)
        self._build_unet()
        self._build_optimizer()
        self.settle(Fit(recipe.batch_size) if fit is None else fit)
        self.pool: tuple | None = None

    def _build_unet(self) -> None:
        model, recipe = self.model, self.recipe
        names = tensors_of(model.unet, self.blocks, recipe.scope)
        self.trained = FORMS[recipe.form](model.unet, names, recipe.rank, self.seed)
        self.unet, self.weights = self.trained.unet, self.trained.parameters
        scales = {id(self.weights[n]): s for n, s in self.trained.scales().items()} | {
            id(self.offset): self.start.scale_of_words()} if recipe.relative else {}
        self.scale_of = lambda tensor: scales.get(id(tensor), 1.0)      # what its rate is a share of
        towers, self.masters = for_training(self.unet, model.towers, model.device, self.precision,
                                            self.scale_of)
        self.texts = TrainingTexts(replace(model, towers=towers), self.blocks, self.names.plain,
                                   recipe.plain_share, recipe.layout, self.trained.slots)
        self.route = self.texts.route
        hidden = self.texts.hides and recipe.plain_share == 1          # slot 0 never sees the token
        install(self.unet, self.route, constant=(0,) if hidden else (),
                packed=self.blocks if self.trained.slots else ())
        # Neither its weights nor its prompt change
        self.encoder_frozen = hidden and all(b.startswith(("up_blocks", "conv_out")) for b in self.blocks)
        if recipe.cached and not self.encoder_frozen:
            raise ESCDiffError(
                f"recipe {recipe.name!r} cannot cache encoder features: with preset {recipe.preset!r} "
                "the encoder trains or sees the token; use a decoder-only one such as "
                "escdiff-appearance-paper"
            )

    def _build_optimizer(self) -> None:
        filter = list(self.start.network.parameters()) if self.start.trains else []
        self.optimizer = Optimizer(self.recipe, list(self.weights.values()), self.offset, filter,
                                   self.masters, self.scale_of)
        count = self.report.trained_parameters = sum(p.numel() for p in self.optimizer.parameters())
        self.report.trained_state_bytes = STATE_BYTES * count

    def settle(self, fit: Fit) -> None:
        """Compute as ``fit`` says from now on."""
        self.fit = fit
        self.report.rows, self.report.checkpointing = fit.rows, fit.checkpointing
        (self.unet.enable_gradient_checkpointing if fit.checkpointing else
         self.unet.disable_gradient_checkpointing)()

    # -- one step --------------------------------------------------------------------------------------------

    def vectors(self) -> Vectors:
        """The token's vectors as they stand, (n, dim) for each tower, at the norm of its word."""
        return self.start.vectors(self.offset)

    def kept_vectors(self) -> Vectors:
        """The vectors that the attribute keeps, (n, dim) for each tower; those of other layers or stages are
        the word's."""
        with torch.no_grad():
            vectors = self.vectors()
        lost = lost_rows(self.recipe.layout, self.recipe.stages, self.kept, self.model.unet.state_dict())
        for tower, rows in vectors.items():
            rows[lost] = self.start.words[tower]
        return {tower: rows.cpu() for tower, rows in vectors.items()}

    def ready(self) -> None:
        """Compute what all steps share, once."""
        if self.recipe.cached and self.pool is None:
            with autocast(self.model.device, self.precision):
                self._fill_pool()

    def _fill_pool(self) -> None:
        """Encode a pool of draws once: exact while neither the encoder nor its prompt changes."""
        batch = self.recipe.batch_size
        batches = max(round(self.recipe.pool / batch if self.recipe.pool else self.recipe.steps / REUSE), 1)
        drawn, parts = self.draws(np.random.default_rng((self.seed, 13)), batches * batch), []
        for start in range(0, len(drawn.prompts), 32):
            part = drawn.pick(torch.arange(start, min(start + 32, len(drawn.prompts))))
            parts.append(
                self._encode(part.x, part.t, self.texts.nothing_learned(part.prompts, [self.names.token]))
            )
        self.pool = drawn, EncoderFeatures(torch.cat([p.sample for p in parts]),
                                           tuple(map(torch.cat, zip(*(p.skips for p in parts), strict=True))),
                                           torch.cat([p.emb for p in parts]))

    def _encode(self, x: torch.Tensor, t: torch.Tensor, texts: Conditioning) -> EncoderFeatures:
        return encode(self.unet, x, t, texts, grad=not self.encoder_frozen)

    def loss(self) -> torch.Tensor:
        """The loss of the next step, with its graph."""
        return torch.stack(list(self.parts())).sum()

    def parts(self) -> Iterator[torch.Tensor]:
        """The loss of the next step in parts that add up to it, each of ``fit.rows`` and with its graph."""
        if self.masters is not None:
            self.masters.refresh()
        rng = np.random.default_rng((self.seed, 12, self.done))
        self.ready()
        if self.pool is not None:
            rows = pool_rows(len(self.pool[0].prompts), self.recipe.batch_size, self.done, self.seed)
            drawn, features = (part.pick(rows) for part in self.pool)
        else:
            drawn, features = self.draws(rng, self.recipe.batch_size), None
        count = len(drawn.prompts)
        for rows in torch.arange(count).split(self.fit.rows):
            whole = len(rows) == count
            part = drawn if whole else drawn.pick(rows)
            seen = features if whole or features is None else features.pick(rows)
            yield self._part(rng, part, seen) * (len(rows) / count)

    def _part(
        self, rng: np.random.Generator, drawn: Draw, features: EncoderFeatures | None
    ) -> torch.Tensor:
        """The loss of some rows; ``rng`` goes on from part to part as in one batch."""
        with autocast(self.model.device, self.precision):
            texts = self.texts(rng, drawn.prompts, {self.names.token: self.vectors()}, drawn.t, drawn.alone)
            if features is None:
                features = self._encode(drawn.x, drawn.t, texts)
            error = (decode(self.unet, features, texts).float() - drawn.target).square()  # (b, 4, h, w)
        return (error * self.views.weights[drawn.index]).mean()

    def step(self) -> float:
        """Take one step; returns its loss. Where memory runs out, the same step is taken in smaller parts.

        Raises ESCDiffError when there is not enough for the smallest.
        """
        self.optimizer.begin(self.done)
        try:
            loss = self._gradients()
            self.optimizer.step()
            self.trained.after(self.done)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise no_room(self) from error
            raise
        finally:
            self.optimizer.forget()
        self.done += 1
        self.optimizer.take_in(self.done)
        self.report.losses.append(float(loss))
        if not math.isfinite(self.report.losses[-1]):
            raise ESCDiffError(
                f"the loss of step {self.done} is {self.report.losses[-1]}: the learning ran away; "
                "take fewer steps or another recipe"
            )
        return self.report.losses[-1]

    def _gradients(self) -> torch.Tensor:
        """Add up the gradients of the next step; returns its loss, without a graph."""
        while True:
            part, losses = None, []
            try:
                for part in self.parts():
                    part.backward()
                    losses.append(part.detach())
                    part = None
                return torch.stack(losses).sum()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.fit.less() is None:
                    raise
            part = None             # what failed must be gone before the next try
            shrink(self)

    # -- the whole run ---------------------------------------------------------------------------------------

    def attribute(self) -> Attribute:
        """What has been learned so far, as it would be saved."""
        recent = self.report.losses[-20:]
        with self.optimizer.averaged():
            vectors, delta = self.kept_vectors(), self.trained.delta(self.kept)
        return Attribute(
            kind=self.recipe.kind, token=self.names.token, word=self.names.plain, embeddings=vectors,
            delta=delta, blocks=self.kept, recipe=self.recipe.name, recipe_hash=self.recipe.hash(),
            preset=self.recipe.preset, base_fingerprint=self.model.fingerprint, steps=self.done,
            seed=self.seed, losses={"final": float(np.mean(recent)) if recent else 0.0},
            reference_hash=self.references[0].hash, thumbnail=self.references[0].thumbnail(),
            reach=self.recipe.reach, layout=self.recipe.layout,
            extra={"init_word": self.names.init_word, "family": self.model.family, **self._unusual()},
        ).quantised()

    def _unusual(self) -> dict[str, dict]:
        """The UNet's anatomy, where its names do not follow from its family."""
        config = self.model.unet.config
        usual = unet_map(config).items() <= usual_names(self.model.family).items()
        return {} if usual else {"unet_config": anatomy(config)}

    def state(self) -> RunState:
        """All that a later run needs to go on from here."""
        tensors = self.optimizer.state()
        tensors |= {f"state.{key}": value for key, value in self.trained.state.items()}
        return RunState(self.done, self.report.losses, tensors, self.identity())

    def restore(self, state: RunState) -> None:
        """Go on from a ``state`` of the same run."""
        self.optimizer.restore(state.tensors)
        for key, value in self.trained.state.items():
            value.copy_(state.tensors[f"state.{key}"])
        self.done, self.report.losses, self.fresh = state.done, list(state.losses), False

    def identity(self) -> list:
        """What must agree between this run and its continuation, as JSON data."""
        n = self.names
        return [
            __version__, self.model.fingerprint, self.recipe.hash(), self.seed,
            [n.token, n.plain, n.init_word, n.class_word, n.describe],
            [r.hash for r in self.references], self.start.identity()
        ]

    def run(self, on_step: Callable[[Progress], None] | None = None, snapshots: Path | None = None,
            snapshot_every: int = 50) -> Attribute:
        """Take the remaining steps and return the attribute.

        ``on_step`` may raise to cancel; what was learned up to then is in ``snapshots``. Every
        ``snapshot_every`` steps (0: not before) the attribute so far is kept as ``step-000050.safetensors``.
        """
        log.info("learning %s with %s: %s parameters in %d blocks (%s), about %.2f GiB of trained state",
                 self.recipe.kind, self.recipe.name, f"{self.report.trained_parameters:,}", len(self.blocks),
                 ", ".join(self.blocks), self.report.trained_state_bytes / 2**30)
        start, first = time.monotonic(), self.done
        try:
            while self.done < self.recipe.steps:
                loss = self.step()
                if on_step is not None:
                    on_step(Progress(self.done, self.recipe.steps, loss, partial(draw_so_far, self)))
                if snapshots is not None and snapshot_every and self.done % snapshot_every == 0:
                    self._keep(snapshots)
        # Ctrl-C and the host's interruption are no Exceptions, and must not lose what was learned
        except BaseException:
            if snapshots is not None and self.done > first and math.isfinite(self.report.losses[-1]):
                self._keep(snapshots)
            raise
        self.report.seconds = time.monotonic() - start
        self.report.steps_per_second = (self.done - first) / max(self.report.seconds, 1e-9)
        log.info("learned in %.1f s, %.2f steps/s", self.report.seconds, self.report.steps_per_second)
        return self.attribute()

    def _keep(self, directory: Path) -> None:
        """Keep a snapshot if there is room for it: a run must not end, nor its error be hidden, because there
        is none."""
        try:
            save_snapshot(self.state(), self.attribute(), directory)
        except (ESCDiffError, OSError) as error:
            log.warning("no snapshot of step %d: %s", self.done, error)
            return
        # not before its own are there: those of a run that this one replaces
        if self.fresh:
            drop_earlier(directory, self.done)
            self.fresh = False
