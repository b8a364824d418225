"""Write a background-removal model of a ComfyUI's own layout that finds what is darker than the ground:
``python host_background.py FILE``, in the folder and with the Python of that ComfyUI.

Real weights of that layout are 220 million numbers that nobody may ship here. All of these are zero but a
path from the pixels to the mask that goes around the network: what is loaded, resized and run is the real
one, and where the subject is can be told beforehand.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

GROUND, STEEPNESS = 0.8, 60.0       # brightness, 0 to 1, at which a pixel is as much subject as ground


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A whole file's tensors for ``model``, which may be on the meta device."""
    state = {
        name: torch.zeros(tensor.shape, dtype=torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    state["decoder.ipt_blk1.conv1.weight"][0, :, 1, 1] = 1 / 3
    state["decoder.ipt_blk1.conv_out.weight"][0, 0, 1, 1] = 1
    last = state["decoder.conv_out1.0.weight"]
    last[0, last.shape[1] - state["decoder.ipt_blk1.conv_out.weight"].shape[0]] = -STEEPNESS
    state["decoder.conv_out1.0.bias"][0] = GROUND * STEEPNESS
    return state


def main(file: Path) -> None:
    sys.argv[1:] = ["--cpu"]
    sys.path.insert(0, os.getcwd())
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.background_removal.birefnet import BiRefNet

    model = BiRefNet(dtype=torch.float16, device="meta", operations=comfy.ops.manual_cast)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights(model), file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
