"""The list of nodes that ComfyUI gets to see."""

from comfy_api.latest import ComfyExtension

from . import attribute_file, judge, learn, mix, reference, shape_and_look
from .host.notes import speaking

NODES = [*shape_and_look.NODES, *reference.NODES, *learn.NODES, *attribute_file.NODES, *mix.NODES, *judge.NODES]


class ESCDiffExtension(ComfyExtension):
    async def get_node_list(self):
        from .host.contract import warn_of_missing
        from .host.folders import register_folders

        warn_of_missing()
        register_folders()      # here, because 0.3.64 never calls on_load
        return [speaking(node) for node in NODES]
