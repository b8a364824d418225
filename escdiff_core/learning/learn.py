"""The one way to learn an attribute, for the command line, the demo, the benchmark and the nodes alike."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..attribute import Attribute
from ..errors import ESCDiffError
from ..model.diffusion import DiffusionModel
from ..reference import Reference
from .drift import FAR, drift_of
from .encoders import choose_filter
from .features import ReferenceEncoder, ReferenceFeatures
from .filters import AttributeFilter
from .fit import Fit, Room, choose
from .names import Names
from .recipes import Recipe
from .report import Progress, Report
from .snapshots import drop_state, load_snapshot
from .start import choose_start
from .tune import Tuner
from .views import prepare_views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshots:
    """Where a run is kept that is cut short, and what becomes of one that lies there.

    ``every``: so many steps, 0: when it is cut short alone. ``resume``: go on from what lies there.
    ``discard``: begin anew where that is damaged or another run's, instead of raising ESCDiffError.
    """

    folder: Path
    every: int = 50
    resume: bool = False
    discard: bool = False


def learn(model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int = 0, *,
          filters: Path | None = None, snapshots: Snapshots | None = None,
          on_begin: Callable[[Tuner], None] | None = None, on_step: Callable[[Progress], None] | None = None,
          room: Room | None = None, **how) -> tuple[Attribute, Report]:
    """Learn an attribute of the ``references`` on ``model``, which stays as it is; returns it and the run's
    figures.

    ``filters``: a file of pre-trained filters; without one, a world's own for its model. ``how``: what
    :func:`prepare` takes. ``on_begin`` is told of the run before its first step, ``on_step`` after each; both
    may raise to cancel. ``room``: see fit.choose. Raises ESCDiffError in one sentence for what cannot be
    learned.
    """
    if "network" not in how:
        how["network"] = choose_filter(filters, recipe, model, how.get("encoder"), how.get("features"))
    tuner = prepare(model, references, recipe, seed, **how)
    choose(tuner, room)
    if snapshots is not None and snapshots.resume:
        _go_on(tuner, snapshots)
    if on_begin is not None:
        on_begin(tuner)
    kept = {} if snapshots is None else {"snapshots": snapshots.folder, "snapshot_every": snapshots.every}
    attribute = tuner.run(on_step, **kept)
    _watch_drift(tuner)
    return attribute, tuner.report


def prepare(model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int = 0,
            describe: str = "", class_word: str = "", encoder: ReferenceEncoder | None = None,
            network: AttributeFilter | None = None, token: str | None = None, checkpointing: bool = False,
            precision: str = "auto", features: ReferenceFeatures | None = None,
            preparing: Callable[[int, int], None] | None = None, banks: Path | None = None) -> Tuner:
    """A run that has taken no step: its views drawn and encoded, its token at its start, its weights copied.

    ``features``: those of the references, if they were read before. ``network``: a trained filter; without
    one it trains along. ``preparing(done, total)`` hears of pictures that are drawn and encoded, and may
    raise to cancel. ``banks``: see prepare_views. ``describe``, ``class_word`` and ``token``: see
    names.Names. The rest is the Tuner's.
    """
    names = Names.of(recipe, token, class_word, describe)
    if not 0 <= seed < 2**64:
        raise ESCDiffError(f"the seed is {seed}; needed: a whole number from 0 to 2**64 - 1")
    views = prepare_views(
        model, references, recipe, seed, describe, names.plain, preparing, banks, precision
    )
    start = choose_start(model, references, recipe, names.init_word, seed, network, features, encoder)
    fit = Fit(recipe.batch_size, checkpointing)
    return Tuner(model, references, recipe, seed, names, views, start, fit, precision)


def _watch_drift(tuner: Tuner) -> None:
    """Say so when what was learned would show in pictures that do not name it."""
    try:
        drift = tuner.report.drift = drift_of(tuner)
    except (RuntimeError, MemoryError, ArithmeticError) as error:
        log.debug("no drift: %s", error)        # what was learned is there, and needs no figure
        return
    if drift is not None and drift > FAR:
        log.warning(
            "what was learned changes pictures that do not name it as well: without %s the model's idea of a "
            "picture has moved by %.0f %% of its size; take fewer steps, or a lower strength when mixing",
            tuner.names.token, 100 * drift)


def _go_on(tuner: Tuner, snapshots: Snapshots) -> None:
    try:
        state = load_snapshot(snapshots.folder, tuner.identity())
        if state is not None:
            tuner.restore(state)
    except ESCDiffError as error:
        if not snapshots.discard:
            raise
        log.info("begun anew: %s", error)
        drop_state(snapshots.folder)
