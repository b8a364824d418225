"""Stage 3: attribute-aware tuning of a token and some UNet blocks on one reference, on a private copy.

``L_LDM = E || eps - eps_theta(x_t, t, tau(prompt with the token)) ||^2`` (Rombach et al. 2022), weighted by the mask. Only
the blocks of the recipe's preset get gradients. Each step draws from its own seed, so that a resumed run equals an unbroken one.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from ..attribute import Attribute
from ..errors import ESCDiffError
from ..model.load import DiffusionModel
from ..model.sample import image_to_latents
from ..model.text import encode_prompts
from ..reference import Reference
from .blocks import block_of, find_preset
from .delta import extract_delta
from .features import ReferenceEncoder, ReferenceFeatures, reference_features
from .filters import AttributeFilter, make_filter, merge, starting_word
from .precision import autocast
from .private import EncoderFeatures, decode, encode, private_copy, tensors_of
from .recipes import TIMESTEP_LAWS, Recipe
from .route import derive_route, install, pack, without_tokens
from .snapshots import load_snapshot, save_snapshot
from .views import prepare_views

log = logging.getLogger(__name__)


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


class Tuner:
    """One run of a recipe on one reference. ``step()`` takes one optimiser step; ``attribute()`` is what has been learned.

    The caller's ``model`` stays bit-identical: trainable tensors are clones, frozen ones are shared and never written.
    ``checkpointing`` keeps fewer activations and computes them again going back (Chen et al. 2016): same gradients, less
    memory, more time. ``precision``: see precision.autocast. ``features``: those of the references, if they were read before.
    """

    def __init__(self, model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int = 0,
                 describe: str = "", class_word: str = "", encoder: ReferenceEncoder | None = None,
                 network: AttributeFilter | None = None, token: str | None = None, checkpointing: bool = False,
                 precision: str = "auto", features: ReferenceFeatures | None = None):
        self.model, self.recipe, self.seed, self.references = model, recipe, seed, list(references)
        self.token, self.describe, self.init_word = token or recipe.token, describe, class_word or recipe.init_word
        if len(self.token.split()) != 1:
            raise ESCDiffError(f"the token is {self.token!r}; needed: one word without spaces, such as {recipe.token}")
        if not 0 <= seed < 2**63:
            raise ESCDiffError(f"the seed is {seed}; needed: a whole number from 0 to 2**63 - 1")
        self.plain = class_word if class_word and recipe.kind == "shape" else recipe.word
        self.done, self.report, self.checkpointing, self.precision = 0, Report(), checkpointing, precision
        self.fresh = True           # nothing of this run is on disk yet
        self.blocks = find_preset(recipe.preset).blocks(recipe.kind, model.unet.state_dict())
        self.views = prepare_views(model, self.references, recipe, seed, describe)
        self.features = features if features is not None else self._read_features(encoder)
        self.word = starting_word(model, self.init_word)                                       # (dim,)
        self.network = network if network is not None else make_filter(model, self.features, seed)
        self._check_filter()
        self.filter_trains = network is None
        self.offset = nn.Parameter(torch.zeros_like(self.word))
        self._build_unet()
        self._build_optimizer()
        self.plain_contexts: dict[str, torch.Tensor] = {}
        self.pool: tuple | None = None

    def _check_filter(self) -> None:
        clip = 0 if self.features.clip is None else len(self.features.clip)
        needed = self.network.widths["clip_width"]
        if needed not in (0, clip):
            raise ESCDiffError(f"the filter was trained with an encoder of width {needed}, this one's is {clip}; give "
                               "the same encoder, or train filters for this one")
        self.filter_scale = self.recipe.filter_scale if self.network.scale is None else self.network.scale

    def _read_features(self, encoder: ReferenceEncoder | None) -> ReferenceFeatures:
        latents = torch.cat([image_to_latents(self.model, r.image[None]) for r in self.references])
        images = torch.from_numpy(np.stack([r.image for r in self.references]))
        return reference_features(self.model, latents, images, self.recipe.feature_timestep, encoder, self.seed)

    def _build_unet(self) -> None:
        model, recipe = self.model, self.recipe
        names = tensors_of(model.unet, self.blocks)
        if recipe.form == "full":
            self.unet = private_copy(model.unet, own=names)
            self.weights = {n: p for n, p in self.unet.named_parameters() if p.requires_grad}
        else:
            from .lora import add_lora

            self.unet = private_copy(model.unet)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.weights = add_lora(self.unet, names, recipe.rank)
        # Shape is the main prompt; an appearance rides along on the blocks it trains, and the rest sees the plain word.
        owners = [self.blocks] if recipe.kind != "appearance" else [(), self.blocks]
        if recipe.kind == "shape" and recipe.plain_share > 0:
            owners = [self.blocks, tuple({block_of(n) for n in self.unet.state_dict()} - set(self.blocks))]
        self.route, _ = derive_route(owners, None if recipe.kind == "appearance" else 0)
        if model.device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())      # plain bmm: its backward is faster there than the fused kernel's
        install(self.unet, self.route)
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.encoder_trains = any(not n.startswith(("up_blocks", "conv_norm_out", "conv_out")) for n in self.weights)
        if recipe.cached and (self.encoder_trains or recipe.kind != "appearance"):
            raise ESCDiffError(f"recipe {recipe.name!r} cannot cache encoder features: preset {recipe.preset!r} trains the "
                               "encoder or gives it the token; use a decoder-only appearance preset such as paper")

    def _build_optimizer(self) -> None:
        recipe = self.recipe
        groups = [{"params": list(self.weights.values()), "lr": recipe.lr_weights}] if self.weights else []
        groups.append({"params": [self.offset], "lr": recipe.lr_token})
        if self.filter_trains:
            groups.append({"params": list(self.network.parameters()), "lr": recipe.lr_filter})
        for group in groups:
            group["peak"] = group["lr"]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        trained = [p for g in groups for p in g["params"]]
        self.report.trained_parameters = sum(p.numel() for p in trained)
        # weight, gradient and two moments, all fp32
        self.report.trained_state_bytes = 16 * self.report.trained_parameters

    # -- one step -----------------------------------------------------------------------------------------------------

    def vector(self) -> torch.Tensor:
        """The token embedding as it stands, (1, dim), at the norm of its word."""
        out = self.network(self.features.unet, self.features.clip)
        return merge(self.word, self.filter_scale * out * self.word.norm() + self.offset)[None]

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, ...]:
        """Views, timesteps, noised latents and noise of ``count`` draws."""
        recipe, device = self.recipe, self.views.latents.device
        index = torch.from_numpy(rng.integers(0, len(self.views.latents), count)).to(device)
        total = self.model.schedule.num_train_timesteps
        u = (np.arange(count) + rng.random(count)) / count                  # one draw from each slice: less variance
        t = torch.from_numpy((total * u ** TIMESTEP_LAWS[recipe.timesteps]).astype(np.int64)).to(device)
        z = self.views.latents[index]
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(device)
        alpha = self.model.schedule.alphas_cumprod().to(device)[t].view(-1, 1, 1, 1)
        target = noise if self.model.schedule.prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * z
        return index, t, alpha.sqrt() * z + (1 - alpha).sqrt() * noise, target

    def _prompts(self, rng: np.random.Generator, index: torch.Tensor) -> list[str]:
        forms = rng.integers(0, len(self.recipe.templates), len(index))
        return [self.recipe.prompt(form, self.token, self.views.rest[i], self.views.behind[i])
                for i, form in zip(index.tolist(), forms, strict=True)]

    def _plain_context(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text states of prompts with the plain word in the token's place; they never change, so each is encoded once."""
        texts = [without_tokens(p, {self.token: self.plain}) for p in prompts]
        new = [t for t in dict.fromkeys(texts) if t not in self.plain_contexts]
        if new:
            with torch.no_grad():
                self.plain_contexts.update(zip(new, encode_prompts(self.model, new), strict=True))
        return torch.stack([self.plain_contexts[t] for t in texts])

    def _context(self, rng: np.random.Generator, prompts: list[str]) -> torch.Tensor:
        """The packed text states of the route's slots, (b, slots * 77, dim)."""
        unique = list(dict.fromkeys(prompts))
        states = encode_prompts(self.model, unique, {self.token: self.vector()})
        own = states[[unique.index(p) for p in prompts]]
        if self.route.slots == 1:
            return own
        plain = self._plain_context(prompts)
        if self.recipe.kind == "appearance":
            return pack([plain, own])
        hide = torch.from_numpy(rng.random(len(prompts)) < self.recipe.plain_share).to(own.device)[:, None, None]
        return pack([own, torch.where(hide, plain, own)])

    def _fill_pool(self) -> None:
        """Encode a pool of draws once: exact while neither the encoder nor its prompt changes."""
        rng = np.random.default_rng((self.seed, 13))
        index, t, x, target = self._draw(rng, self.recipe.pool)
        order = torch.from_numpy(rng.permutation(len(index)))
        index, t, x, target = index[order], t[order], x[order], target[order]
        prompts = self._prompts(rng, index)
        parts = []
        for start in range(0, len(index), 32):
            rows = slice(start, start + 32)
            parts.append(self._encode(x[rows], t[rows], pack([self._plain_context(prompts[rows])] * self.route.slots)))
        features = EncoderFeatures(torch.cat([p.sample for p in parts]),
                                   tuple(map(torch.cat, zip(*(p.skips for p in parts), strict=True))),
                                   torch.cat([p.emb for p in parts]))
        self.pool = (index, prompts, target, features)

    def _encode(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> EncoderFeatures:
        return encode(self.unet, x, t, context, grad=self.encoder_trains or self.recipe.kind != "appearance")

    def loss(self) -> torch.Tensor:
        """The loss of the next step, with its graph."""
        rng = np.random.default_rng((self.seed, 12, self.done))
        if self.recipe.cached and self.pool is None:
            with autocast(self.model.device, self.precision):
                self._fill_pool()
        if self.pool is not None:
            index, prompts, target, features = self.pool
            rows = torch.from_numpy(rng.integers(0, len(index), self.recipe.batch_size))
            index, target, features = index[rows], target[rows], features.pick(rows)
            prompts = [prompts[i] for i in rows.tolist()]
        else:
            index, t, x, target = self._draw(rng, self.recipe.batch_size)
            prompts, features = self._prompts(rng, index), None
        with autocast(self.model.device, self.precision):
            context = self._context(rng, prompts)
            if features is None:
                features = self._encode(x, t, context)
            error = (decode(self.unet, features, context).float() - target).square()        # (b, 4, h, w)
        return (error * self.views.weights[index]).mean()

    def step(self) -> float:
        """Take one step; returns its loss. Raises ESCDiffError when memory runs out, with what to lower."""
        recipe = self.recipe
        warm = min(1.0, (self.done + 1) / max(recipe.warmup_steps, 1))
        fall = min(1.0, 2.0 * (recipe.steps - self.done) / max(recipe.steps, 1))     # linear to zero over the last half
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * warm * fall
        try:
            loss = self.loss()
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
            self.optimizer.step()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory() from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):      # what torch's CPU allocator raises
                raise self._out_of_memory() from error
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)    # a step that failed leaves nothing for the next one to add to
        self.done += 1
        self.report.losses.append(float(loss.detach()))
        return self.report.losses[-1]

    def _out_of_memory(self) -> ESCDiffError:
        need = self.report.trained_state_bytes / 2**30
        return ESCDiffError(f"out of memory: the trained weights alone need {need:.1f} GiB and a batch of "
                            f"{self.recipe.batch_size} its activations on top; lower the batch size, switch checkpointing "
                            "on or use a -lora recipe")

    # -- the whole run ------------------------------------------------------------------------------------------------

    def attribute(self) -> Attribute:
        """What has been learned so far, as it would be saved."""
        with torch.no_grad():
            vector = self.vector().detach().cpu()
        recent = self.report.losses[-20:]
        return Attribute(
            kind=self.recipe.kind, token=self.token, word=self.plain, embeddings={"clip_l": vector},
            delta=extract_delta(self.model.unet, self.weights, self.recipe), blocks=self.blocks, recipe=self.recipe.name,
            recipe_hash=self.recipe.hash(), preset=self.recipe.preset, base_fingerprint=self.model.fingerprint,
            steps=self.done, seed=self.seed, losses={"final": float(np.mean(recent)) if recent else 0.0},
            reference_hash=self.references[0].hash, thumbnail=self.references[0].thumbnail(),
            extra={"init_word": self.init_word},
        ).quantised()

    def run(self, on_step: Callable[[Progress], None] | None = None, snapshots: Path | None = None,
            snapshot_every: int = 50, resume: bool = False, seconds: float | None = None) -> Attribute:
        """Take the remaining steps and return the attribute.

        ``on_step`` may raise to cancel; what was learned up to then is in ``snapshots``, from where ``resume`` goes on.
        ``seconds`` ends the run early (a benchmark's budget). Every ``snapshot_every`` steps the attribute so far is kept
        as ``step-000050.safetensors``.
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
                if snapshots is not None and self.done % snapshot_every == 0:
                    save_snapshot(self, snapshots)
                if seconds is not None and time.monotonic() - start > seconds:
                    break
        except BaseException:      # Ctrl-C and the host's interruption are no Exceptions, and must not lose what was learned
            if snapshots is not None and self.done > first:
                save_snapshot(self, snapshots)
            raise
        self.report.seconds = time.monotonic() - start
        self.report.steps_per_second = (self.done - first) / max(self.report.seconds, 1e-9)
        log.info("learned in %.1f s, %.2f steps/s", self.report.seconds, self.report.steps_per_second)
        return self.attribute()
