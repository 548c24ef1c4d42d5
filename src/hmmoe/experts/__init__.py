"""The expert families: what happens to a stream's low-rank states between the down and the up product.

A layer holds, per stream and kind, one *group*: `count` experts of rank `r` computed together. Expert e owns
the channels `[e*r, (e+1)*r)` of every stream's low-rank states; it writes into those of its own stream m and
reads those of the other streams n. There are two ways to be an expert, and every expert file defines one
class of either:

- `ChannelExperts` answer with a scale and a shift per sample and channel, `Y = phi(Z_m) * scale + shift`;
  the layer applies those of all such kinds, gate included, in one fused step.
- `TokenExperts` answer with a y per token, `Y = phi(Z_m) + y`, from the tokens of both sides.

To add an expert write one file with one class and put it in `EXPERTS` (docs/add-an-expert.md).
"""

from hmmoe.experts.affine import Affine, ConditionedAffine
from hmmoe.experts.base import ChannelExperts, Experts, TokenExperts
from hmmoe.experts.channel_attention import ChannelAttention
from hmmoe.experts.cross_attention import CrossAttention

EXPERTS: dict[str, type[Experts]] = {
    "affine": Affine,
    "conditioned_affine": ConditionedAffine,
    "channel_attention": ChannelAttention,
    "cross_attention": CrossAttention,
}

__all__ = ["EXPERTS", "ChannelExperts", "Experts", "TokenExperts"]
