"""What the probes share: a real ComfyUI started inside this process (``HOST BASE PACK`` on the command line),
and shorthands."""

import hashlib
import importlib
import os
import sys
from pathlib import Path

import host_small_work

HOST, BASE, PACK = (Path(a) for a in sys.argv[1:4])
sys.path.insert(0, str(HOST))
os.chdir(HOST)
sys.argv = ["main.py", "--cpu", "--base-directory", str(BASE)]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import torch  # noqa: E402
import utils.extra_config  # noqa: E402,F401  (before nodes: comfy/utils.py shadows it otherwise)

host_small_work.few_layers()

import nodes as host_nodes  # noqa: E402

found: dict = {}
SIDE = 8        # cells of a latent: what is compared is the same in small, and half the time


def node(node_id: str, /, **inputs):
    """Run a node of the pack as the executor does, and return its outputs."""
    made = host_nodes.NODE_CLASS_MAPPINGS[node_id].EXECUTE_NORMALIZED(**inputs)
    return made.result


def stock(node_id: str, method: str, /, **inputs):
    return getattr(host_nodes.NODE_CLASS_MAPPINGS[node_id](), method)(**inputs)


def core(name: str):
    """A module of the pack, under the name the host gave it."""
    pack = next(m for m in sys.modules if m.endswith(".nodes.extension")).removesuffix(".nodes.extension")
    return importlib.import_module(f"{pack}.{name}")


def few_views() -> None:
    """Recipes of few views, as the tested servers have them."""
    host_small_work.few_views(core("escdiff_core.learning.recipes").RECIPES)


def hash_of(*modules) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def empty(batch: int = 1, side: int = SIDE) -> dict:
    """An empty latent image of ``side`` cells, 8 pixels each."""
    return {"samples": torch.zeros(batch, 4, side, side)}


def draw(model, positive, negative, cfg=5.0, batch=1, seed=1, steps=3, side=SIDE):
    return stock("KSampler", "sample", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name="euler",
                 scheduler="normal", positive=positive, negative=negative, latent_image=empty(batch, side),
                 denoise=1.0)[0]["samples"]


def largest(a, b) -> float:
    return float((a - b).abs().max())


def control_net(model):
    """A ControlNet with random weights that fits ``model``."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    foreign = ("out_channels", "disable_unet_model_creation", "transformer_depth_output", "device", "dtype",
               "operations")
    config = {k: v for k, v in model.model.model_config.unet_config.items() if k not in foreign}
    with torch.inference_mode(False):
        net = comfy.cldm.cldm.ControlNet(
            hint_channels=3, operations=comfy.ops.manual_cast, device="cpu", dtype=torch.float32, **config
        )
        for name, tensor in net.state_dict().items():
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.05)
    return comfy.controlnet.ControlNet(net, manual_cast_dtype=None, load_device=torch.device("cpu"))


def controlled(given, positive, negative):
    """The two conditionings with the ControlNet ``given`` applied to a picture, through the stock node."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    return stock("ControlNetApplyAdvanced", "apply_controlnet", positive=positive, negative=negative,
                 control_net=given, image=picture, strength=0.5, start_percent=0.0, end_percent=1.0)
