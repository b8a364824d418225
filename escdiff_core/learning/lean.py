"""A UNet's layers computed in fewer and larger operations, for training on a CPU; the same function to
rounding.

There half of a small model's step is what lies between its matrix products: copies to and fro between
pictures and rows of pixels, divisions by one, a fused attention whose way back is slow, rows of a length that
no vector unit likes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from diffusers.models import Transformer2DModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners import lora
from torch import nn

try:
    from transformers import AttentionInterface
except ImportError:         # before 4.48
    AttentionInterface = None

from ..model.towers import TextTower
from .half import Masters, halve, shared_copy
from .lean_lora import LeanLoRAConv2d, LeanLoRALinear, product
from .precision import in_bf16

CAUSAL = "escdiff_causal"    # the name of our attention among those of transformers
ROW = 32      # of bf16 in a vector register: a softmax over 77 takes 2.5 times as long as one over 96


class _Attend(torch.autograd.Function):
    """softmax(q kᵀ · scale) v (Vaswani et al. 2017), for q (b, n, d), k and v (b, m, d); causal: a row sees
    none after it."""

    @staticmethod
    def forward(ctx, q, k, v, scale, causal):
        rows = k.shape[1]
        missing = -rows % ROW if q.dtype != torch.float32 else 0
        scores = torch.bmm(q, k.transpose(1, 2))                                              # (b, n, m)
        scores *= scale
        if causal:
            scores += torch.full(scores.shape[1:], float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
        weights = F.pad(scores, (0, missing),
                        value=float("-inf")).softmax(-1)[..., :rows] if missing else scores.softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, weights = ctx.saved_tensors
        to_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, q.dtype)
        to_scores *= ctx.scale
        to_k, to_v = torch.bmm(to_scores.transpose(1, 2), q), torch.bmm(weights.transpose(1, 2), grad)
        return torch.bmm(to_scores, k), to_k, to_v, None, None


class LeanAttention(AttnProcessor):
    """Plain attention without a mask, as SD's UNets have it; whatever else is asked for goes to the usual
    processor."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs
    ):
        if not _is_plain(attn) or attention_mask is not None or hidden_states.ndim != 3:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(t) if attn.heads > 1 else t
                   for t in (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)))
        out = _Attend.apply(q, k, v, attn.scale, False)
        return attn.to_out[0](attn.batch_to_head_dim(out) if attn.heads > 1 else out)


def _is_plain(attn) -> bool:
    return (attn.spatial_norm is None and attn.group_norm is None and not attn.norm_cross
            and not attn.residual_connection and attn.rescale_output_factor == 1 and not attn.upcast_attention
            and not attn.upcast_softmax)


class _Gate(torch.autograd.Function):
    """a · gelu(b) (Shazeer 2020), computed again for the most part going back."""

    @staticmethod
    def forward(ctx, a, b):
        gate = F.gelu(b)
        ctx.save_for_backward(a, b, gate)
        return a * gate

    @staticmethod
    def backward(ctx, grad):
        a, b, gate = ctx.saved_tensors
        return grad * gate, torch.ops.aten.gelu_backward(grad * a, b)


class LeanGEGLU(GEGLU):
    """Its two halves are two products: cut from one, each is rows with gaps, which are slow to walk."""

    def forward(self, hidden_states, *args, **kwargs):
        if type(self.proj) not in (nn.Linear, LeanLoRALinear) or self.proj.bias is None:
            return _Gate.apply(*self.proj(hidden_states).chunk(2, dim=-1))
        half = len(self.proj.weight) // 2
        return _Gate.apply(*(product(self.proj, hidden_states, part)
                             for part in (slice(half), slice(half, None))))


class LeanTransformer(Transformer2DModel):
    """Its 1x1 convolutions are products of rows of pixels, so that pictures are turned into rows once and
    back once."""

    def _operate_on_continuous_inputs(self, hidden_states):
        if type(self.proj_in) not in (nn.Conv2d, LeanLoRAConv2d):
            return super()._operate_on_continuous_inputs(hidden_states)
        rows = self.norm(hidden_states).flatten(2).transpose(1, 2).contiguous()                # (b, h w, c)
        return product(self.proj_in, rows), len(self.proj_in.weight)

    def _get_output_for_continuous_inputs(
        self, hidden_states, residual, batch_size, height, width, inner_dim
    ):
        if type(self.proj_out) not in (nn.Conv2d, LeanLoRAConv2d):
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        rows = product(self.proj_out, hidden_states)
        return rows.transpose(1, 2).contiguous().view(residual.shape) + residual


class LeanResnet(ResnetBlock2D):
    """Without the division of its output by one."""

    def forward(self, input_tensor, temb, *args, **kwargs):
        if (self.upsample is not None or self.downsample is not None or self.time_embedding_norm != "default"
                or self.output_scale_factor != 1 or self.skip_time_act or temb is None
                or self.time_emb_proj is None):
            return super().forward(input_tensor, temb, *args, **kwargs)
        hidden = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden = self.conv2(self.dropout(self.nonlinearity(self.norm2(hidden))))
        return hidden + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))


LAYERS = {Transformer2DModel: LeanTransformer, GEGLU: LeanGEGLU, ResnetBlock2D: LeanResnet}
LORAS = {lora.Linear: LeanLoRALinear, lora.Conv2d: LeanLoRAConv2d}
LEAN = LAYERS | LORAS


def make_lean(unet: nn.Module) -> None:
    """Let the layers of ``unet``, a private copy, compute as this file does; layers that a form of training
    has put in stay, but for LoRAs."""
    for module in unet.modules():
        module.__class__ = LEAN.get(type(module), type(module))
    unet.set_attn_processor(LeanAttention())


def lean_text_encoder(text_encoder: nn.Module) -> nn.Module:
    """A CLIP ``text_encoder`` with plain attention, sharing its tensors: the way back through torch's fused
    kernel takes ten times as long. A transformers that knows no attention but its own leaves it as it is.
    """
    lean = shared_copy(text_encoder)
    if AttentionInterface is not None and hasattr(lean, "set_attn_implementation"):
        AttentionInterface.register(CAUSAL, _causal_attention)
        lean.set_attn_implementation(CAUSAL)
    return lean


def _causal_attention(
    module, query, key, value, attention_mask, scaling, **kwargs
) -> tuple[torch.Tensor, None]:
    """What transformers calls for a layer: q, k and v (b, heads, n, d) to (b, n, heads, d). Text is never
    masked but causally."""
    out = _Attend.apply(*(t.flatten(0, 1) for t in (query, key, value)), scaling, True)
    return out.view(query.shape).transpose(1, 2), None


def for_training(unet: nn.Module, towers: Sequence[TextTower], device: torch.device, precision: str = "auto",
                 scale_of: Callable[[nn.Parameter], float] = lambda master: 1.0
                 ) -> tuple[tuple[TextTower, ...], Masters | None]:
    """Make a private ``unet`` ready to train on ``device``; returns the text towers to train with, and the
    masters, if any.

    On a GPU both stay as they are. On a CPU the layers are lean ones and, where it computes in bf16, so are
    all weights but those of the UNet's norms, each beside an fp32 master if it trains (``scale_of``: see
    Masters).
    """
    if device.type != "cpu":
        return tuple(towers), None
    make_lean(unet)
    lean = tuple(replace(tower, encoder=lean_text_encoder(tower.encoder)) for tower in towers)
    if not in_bf16(device, precision):
        return lean, None
    for tower in lean:
        halve(tower.encoder, everything=True)
    pairs = halve(unet)
    return lean, Masters(pairs, scale_of) if pairs else None
