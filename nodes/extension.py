"""The list of nodes that ComfyUI gets to see."""

from comfy_api.latest import ComfyExtension

from . import attribute_file, judge, learn, mix, reference, shape_and_look
from .host.notes import speaking

# The menu keeps this order, and the search where names are equally near: what most people need comes first.
FIRST = [shape_and_look.ESCDiffShapeAndLook, learn.ESCDiffLearnShape, learn.ESCDiffLearnLook,
         attribute_file.ESCDiffLoadAttribute, mix.ESCDiffMix]
ALL = [*shape_and_look.NODES, *learn.NODES, *attribute_file.NODES, *mix.NODES, *reference.NODES, *judge.NODES]
NODES = [*FIRST, *(node for node in ALL if node not in FIRST)]


class ESCDiffExtension(ComfyExtension):
    async def get_node_list(self):
        from .host.contract import warn_of_missing
        from .host.folders import register_folders

        warn_of_missing()
        register_folders()      # here, because 0.3.64 never calls on_load
        return [speaking(node) for node in NODES]
