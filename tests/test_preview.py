"""Previews: a run's own UNet draws what its attribute draws, builds nothing for it, and learns on as without
it."""

import numpy as np
import pytest
from family_zoo import tiny_family_model
from method_zoo import QUICK, disc, quick, saved

from escdiff_core.learning.learn import prepare
from escdiff_core.learning.preview import draw_so_far
from escdiff_core.learning.recipes import RECIPES, find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.sample import Drawing
from escdiff_core.unet import copy

pytestmark = pytest.mark.usefixtures("in_fp32")
HOW = Drawing(steps=3, seed=4, guidance_scale=3.0)
# one for each form of weights and of the token of which all is kept, and for each way in which blocks are
# hidden from the token
CASES = [
    *((name, {}) for name in (
        "escdiff-shape", "escdiff-appearance", "escdiff-appearance-full", "escdiff-shape-paper",
        "escdiff-appearance-paper", "ostaf", "prospect", "neti"
    )),
    ("escdiff-appearance-paper", {"reach": "all"}),
]


def tuned(model, name: str, **changes):
    """A run after three steps, large enough to be seen."""
    kind = RECIPES[name].kind if RECIPES[name].kind != "concept" else "shape"
    given = {**QUICK, "steps": 3, "lr_weights": 0.02, "relative": False, **changes}
    tuner = prepare(model, [disc()], find_recipe(name, kind, **given))
    for _ in range(3):
        tuner.step()
    return tuner


def of_attribute(model, tuner, prompt: str) -> np.ndarray:
    made = tuner.attribute()
    return Mix(model, **{made.kind: Use(made)}).draw(prompt, steps=HOW.steps, seed=HOW.seed,
                                                    guidance_scale=HOW.guidance_scale)


def compare(model, tuner) -> None:
    prompt = f"a photo of a {tuner.names.token}"
    shown, wanted = draw_so_far(tuner, prompt, HOW), of_attribute(model, tuner, prompt)
    before = Mix(model).draw(f"a photo of a {tuner.names.plain}", steps=3, seed=4, guidance_scale=3.0)
    assert shown.shape == wanted.shape and shown.shape[0] == 1
    # an attribute's numbers are rounded
    assert np.abs(shown - wanted).max() <= 0.01 * np.abs(before - wanted).max()


@pytest.mark.parametrize("name, changes", CASES)
def test_a_preview_is_what_the_attribute_draws(model, name, changes):
    compare(model, tuned(model, name, **changes))


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_preview_on_every_family_is_what_the_attribute_draws(family):
    model = tiny_family_model(family)
    compare(model, tuned(model, "escdiff-shape-sd"))


@pytest.mark.parametrize("name", ["escdiff-shape", "unziplora", "neti"])
def test_a_preview_builds_nothing_and_the_run_goes_on_as_without(model, monkeypatch, tmp_path, name):
    recipe = quick(name, steps=3)
    once = saved(prepare(model, [disc()], recipe).run(), tmp_path)
    run, seen = prepare(model, [disc()], recipe), []

    def refuse(*_, **__):
        raise AssertionError("a UNet was built")

    monkeypatch.setattr(copy.UNet2DConditionModel, "from_config", refuse)
    prompt = f"a photo of a {run.names.token}"
    again = saved(run.run(lambda so_far: seen.append(so_far.draw(prompt, HOW))), tmp_path)
    assert again == once and len(seen) == 3
    assert all(np.isfinite(picture).all() for picture in seen) and not np.array_equal(seen[0], seen[2])


def test_a_preview_that_is_cancelled_leaves_the_run_as_it_was(model, tmp_path):
    recipe = quick("escdiff-shape", steps=3)
    once = saved(prepare(model, [disc()], recipe).run(), tmp_path)
    run, heard = prepare(model, [disc()], recipe), []

    def cancel(done: int, total: int) -> None:
        heard.append((done, total))
        raise KeyboardInterrupt

    def cancelled(so_far) -> None:
        with pytest.raises(KeyboardInterrupt):
            so_far.draw(f"a photo of a {run.names.token}", HOW, cancel)

    assert saved(run.run(cancelled), tmp_path) == once and heard == [(1, 3)] * 3
