"""The demo's own parts: its two drawings, its bar and its captions. The whole story is in test_pocket."""

import numpy as np
import pytest
from tqdm import tqdm

from escdiff_core.cli import demo
from escdiff_core.cli.drawings import duck, giraffe
from escdiff_core.metrics.scores import Judge
from escdiff_core.pictures import compose_sheet
from escdiff_core.reference.photograph import subject_of


@pytest.mark.parametrize(("draw", "share"), [(duck, 0.36), (giraffe, 0.55)], ids=["duck", "giraffe"])
def test_a_drawing_is_a_picture_whose_subject_is_found(draw, share):
    image = draw()
    assert image.shape == (128, 128, 3) and image.dtype == np.float32 and 0 <= image.min() < image.max() <= 1
    mask, _ = subject_of(image)
    assert abs(mask.mean() - share) < 0.03
    assert (image == draw()).all()


def test_the_duck_is_no_disc_and_the_coat_no_plain_colour():
    judge = {draw: Judge.of_picture(draw()) for draw in (duck, giraffe)}
    assert judge[duck].shape(giraffe()).mean < 0.3 and judge[giraffe].appearance(duck()).mean < 0.1


def test_the_bar_goes_forward_through_all_stages_to_its_end(monkeypatch):
    whole = demo.WholeBar()
    assert whole.bar.disable, "not a terminal here: nothing may be drawn"
    whole.bar = tqdm(total=sum(demo.SHARES.values()), file=open("/dev/null", "w"))  # noqa: SIM115
    seen = []
    for name in demo.SHARES:
        show = whole.stage(name)
        for done in range(1, 6):
            show(done, 5)
            seen.append(whole.bar.n)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(whole.bar.total)
    assert seen[4] == pytest.approx(demo.SHARES["prompts"])


@pytest.mark.parametrize(("prompt", "line"),
                         [("a *m with *a appearance on a blue background", "on a blue background"),
                          ("a photo of a red and white striped *m on a teal background",
                           "red and white striped on a teal background"),
                          ("an orange *m on a teal background", "orange on a teal background"),
                          ("a bolt with *a appearance on a red background", "a bolt on a red background"),
                          ("an object with plain appearance on a red background", "on a red background"),])
def test_captions_say_what_the_title_does_not(prompt, line):
    assert demo.caption(prompt) == line


def test_a_sheet_grows_with_its_zoom():
    rows = [("Title", [(np.zeros((32, 32, 3)), "a line"), (np.ones((32, 32, 3)), "")])]
    small, large = compose_sheet(rows), compose_sheet(rows, zoom=2)
    assert large.size == tuple(2 * side for side in small.size)
    assert large.getpixel((22, 62)) == (0, 0, 0)
