"""Pictures side by side, and the judge's figures for them."""

import json

from comfy_api.latest import io, ui

from .schema import JUDGE, schema

WORDS = {"S": "shape", "A": "look", "H": "both in one"}


class ESCDiffCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("ESCDiffCompare", "ESCDiff Compare", "A grid of pictures with a line below each.", [
            io.Image.Input("images", tooltip="A batch of pictures."),
            io.Image.Input("more", optional=True, tooltip="Another row."),
            io.String.Input("labels", default="", multiline=True, tooltip="One line for each picture.")
        ], [io.Image.Output("sheet", tooltip="One picture.")], aliases=["contact sheet", "image grid"],
                      group=JUDGE, output_node=True)

    @classmethod
    def execute(cls, images, labels="", more=None):
        from ..escdiff_core.pictures import compose_sheet
        from .pictures import from_pil

        lines = iter(labels.splitlines())
        rows = [
            ("", [(p.cpu().numpy(), next(lines, "")) for p in batch])
            for batch in (images, more)
            if batch is not None
        ]
        sheet = from_pil(compose_sheet(rows))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


class ESCDiffScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffScore", "ESCDiff Score",
            "How much of the references' shape and appearance is in pictures, 0 to 1: S (shape), A "
            "(appearance) and their harmonic mean H. Needs objects on plain backgrounds.", [
                io.Image.Input("images", tooltip="The pictures to judge."),
                io.Image.Input("shape_reference", optional=True, tooltip="Whose shape they should have."),
                io.Mask.Input("shape_mask", optional=True, tooltip="1 = subject."),
                io.Image.Input("appearance_reference", optional=True,
                               tooltip="Whose appearance they should have."),
                io.Mask.Input("appearance_mask", optional=True, tooltip="1 = subject.")
            ], [
                io.Float.Output("S", tooltip="Shape."),
                io.Float.Output("A", tooltip="Appearance."),
                io.Float.Output("H", tooltip="Harmonic mean of those that were asked for."),
                io.String.Output("report", tooltip="All figures as JSON, one value per picture.")
            ], aliases=["evaluate", "similarity"], group=JUDGE, output_node=True)

    @classmethod
    def execute(
        cls, images, shape_reference=None, shape_mask=None, appearance_reference=None, appearance_mask=None
    ):
        from ..escdiff_core.errors import ESCDiffError
        from ..escdiff_core.extras import need

        need("ESCDiff Score", "ot")
        from ..escdiff_core.metrics.scores import harmonic_mean
        from .pictures import judge_of, judged

        if shape_reference is None and appearance_reference is None:
            raise ESCDiffError(
                "nothing to compare with; connect a shape reference, an appearance reference, or both"
            )
        pictures, figures = judged(images), {}
        if shape_reference is not None:
            figures["S"] = judge_of(shape_reference, shape_mask, "the shape reference").shape(pictures)
        if appearance_reference is not None:
            figures["A"] = judge_of(
                appearance_reference, appearance_mask, "the appearance reference"
            ).appearance(pictures)
        means = {name: float(score.mean) for name, score in figures.items()}
        h = harmonic_mean(*means.values())
        report = json.dumps(
            {
                **{
                    n: {"mean": means[n], "pictures": [float(v) for v in s.values]}
                    for n, s in figures.items()
                },
                "H": h,
            },
            indent=1,
        )
        told = "\n".join(f"{name} {figure:.2f} ({WORDS[name]})" for name, figure in {**means, "H": h}.items())
        return io.NodeOutput(means.get("S", 0.0), means.get("A", 0.0), h, report, ui=ui.PreviewText(told))


NODES = [ESCDiffCompare, ESCDiffScore]
