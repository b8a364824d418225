"""Stage 4 as nodes: attributes as files, what is in them, and exports that work without this pack."""

import json
import secrets
from contextlib import suppress

from comfy_api.latest import io, ui

from ..escdiff_core.errors import ESCDiffError
from .schema import ANY, Attribute, schema

# stands first, so that a graph opens without errors where nothing has been saved yet
CHOOSE = "choose a file"


def files() -> list[str]:
    from .host.folders import attribute_files

    return [CHOOSE, *attribute_files()]


def chosen(name: str | None):
    """The file ``name``. Raises ESCDiffError where none was chosen, or there is none of that name."""
    from .host.folders import find_attribute

    if name == CHOOSE:
        raise ESCDiffError(
            "no file was chosen; learn an attribute, save it with ESCDiff Save Attribute, press R and "
            "choose it"
        )
    return find_attribute(name)


def attribute_input() -> io.MultiType.Input:
    return io.MultiType.Input(
        "attribute", ANY, tooltip="A shape or a look, from a Learn node, ESCDiff Tune or a file."
    )


class ESCDiffSaveAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffSaveAttribute", "ESCDiff Save Attribute",
            "Writes the attribute to models/escdiff. Another file of that name is kept: the new one "
            "gets a number.", [
                attribute_input(),
                io.String.Input("name", default="attribute",
                                tooltip="Of the file; folders below models/escdiff are made."),
                io.Boolean.Input("overwrite", default=False, optional=True,
                                 tooltip="Write over a file of that name.")
            ], [
                Attribute.Output("saved", tooltip="The same attribute."),
                io.String.Output("file", tooltip="Where it is.")
            ], aliases=["save shape", "save look"], output_node=True)

    @classmethod
    def validate_inputs(cls, name=None):
        """A name that will not do is told before anything is learned for it."""
        from .host.folders import attribute_path, fault_of

        return fault_of(attribute_path, name)

    @classmethod
    def execute(cls, attribute, name, overwrite=False):
        from ..escdiff_core.files import move, same_file
        from .host.folders import attribute_path, free_path

        first = attribute_path(name)
        written = first.with_name(f".{first.stem}.{secrets.token_hex(4)}.safetensors")
        try:
            attribute.save(written)
            # the very same attribute may be there already, as after a job that was submitted twice
            path = free_path(name, lambda there: overwrite or same_file(written, there))
            move(written, path)
        finally:
            with suppress(OSError):         # the same broken disk must not hide the sentence
                written.unlink(missing_ok=True)
        return io.NodeOutput(attribute, str(path), ui=ui.PreviewText(str(path)))


class ESCDiffLoadAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffLoadAttribute", "ESCDiff Load Attribute",
            "Reads an attribute from models/escdiff. Press R for new files.",
            [io.Combo.Input("file", options=files(), tooltip="A file that ESCDiff Save Attribute wrote.")],
            [Attribute.Output("attribute", tooltip="For ESCDiff Mix.")], aliases=["load shape", "load look"])

    @classmethod
    def validate_inputs(cls, file=None):
        """In place of the host's look at its list, which does not know the slashes of another system."""
        from .host.folders import fault_of

        return fault_of(chosen, file)

    @classmethod
    def fingerprint_inputs(cls, file=None):
        from .host.folders import version_of_attribute

        return version_of_attribute(file)

    @classmethod
    def execute(cls, file):
        from ..escdiff_core.attribute import Attribute as File

        return io.NodeOutput(File.load(chosen(file)))


class ESCDiffAttributeInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("ESCDiffAttributeInfo", "ESCDiff Attribute Info",
                      "What was learned, from what, how, and on which model.", [attribute_input()], [
                          io.String.Output("text", tooltip="All of it, readable."),
                          io.Image.Output("picture", tooltip="The reference, small."),
                          io.String.Output("json", tooltip="The same and more, for programs.")
                      ], output_node=True)

    @classmethod
    def execute(cls, attribute):
        import io as bytes_io

        from PIL import Image

        from ..escdiff_core.attribute.told import in_words
        from .pictures import from_pil

        text, everything = "\n".join(in_words(attribute)), json.dumps(attribute.describe(), indent=1)
        if not attribute.thumbnail:
            return io.NodeOutput(
                text, from_pil(Image.new("RGB", (64, 64))), everything, ui=ui.PreviewText(text)
            )
        picture = from_pil(Image.open(bytes_io.BytesIO(attribute.thumbnail)))
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(text, picture, everything, ui=shown)


class ESCDiffExport(io.ComfyNode):
    FORMS = ("lora", "embedding", "full")

    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffExport", "ESCDiff Export",
            "Writes files for people without this pack: a LoRA (models/loras), an embedding "
            "(models/embeddings), or the whole difference as a LoRA file for ComfyUI only.", [
                attribute_input(),
                io.Combo.Input(
                    "form", options=list(cls.FORMS), default="lora",
                    tooltip="lora and embedding also load in diffusers; full is exact, and only for ComfyUI."
                ),
                io.String.Input("name", default="escdiff", tooltip="Of the file."),
                io.Int.Input("rank", default=32, min=1, max=256, optional=True,
                             tooltip="Of the LoRA, when full weights were learned.")
            ], [io.String.Output("file", tooltip="Where it is.")],
            aliases=["save lora", "export lora", "save embedding"], output_node=True)

    @classmethod
    def validate_inputs(cls, form=None, name=None):
        from .host.files import export_path
        from .host.folders import fault_of

        return fault_of(lambda given: export_path(form or cls.FORMS[0], given), name)

    @classmethod
    def execute(cls, attribute, form, name, rank=32):
        from .host.files import export

        path, note = export(attribute, form, name, rank)
        return io.NodeOutput(path, ui=ui.PreviewText(note))


NODES = [ESCDiffSaveAttribute, ESCDiffLoadAttribute, ESCDiffAttributeInfo, ESCDiffExport]
