"""Where small adapters go inside an unmodified block.

    x ─┬─► attention ─► out ─► A ─► + ─┬─► fc1 ─► φ ─► fc2 ─► A ─► +        sequential
       └───────────────────────────────┘└───────────────────────┘

    x ───► attention ─► out ──────► + ─┬─► fc1 ─► φ ─► fc2 ─► + ──► +       parallel
                                       └─► A ─────────────────┘

Seams are found by shapes, not by names: fc2 is the last layer that writes the block's width, fc1 the layer
before it that fits. A convolutional block without such a pair has its last layer only. A block that sends its
tokens through several MLPs (VLMo's words and image) names them in `ways`, and what of it does not run in
`idle`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.methods.inplace import beside
from hmmoe.streams.widths import block_width


@dataclass
class Seam:
    """Layers of a block by name: an adapter reads the input of `first` and adds to the output of `last`."""

    first: str
    last: str


def writers(block: nn.Module) -> list[str]:
    """Names of the layers that write to a block's residual stream: last projections of attention, last layer.

    Raises:
        ValueError: the block's width cannot be read off it.
    """
    width = block_width(block, type(block).__name__)
    layers = {name: layer for name, layer in block.named_modules() if _sizes(layer) is not None}
    writing = [name for name, layer in layers.items() if _sizes(layer)[1] == width]  # type: ignore[index]
    if not writing:
        raise ValueError(
            f"{type(block).__name__} has no linear layer or convolution that writes its width {width}"
        )
    found = []
    for attention in _attentions(block):
        inside = [name for name in layers if name.startswith(attention + ".")]
        if inside and inside[-1] in writing and not _is_idle(block, attention):
            found.append(inside[-1])
    return list(dict.fromkeys([*found, *([seam.last for seam in _ways(block)] or [writing[-1]])]))


def running_layers(block: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of a block (itself under "") and everything in it that is not `idle`."""
    return {name: m for name, m in block.named_modules() if not _is_idle(block, name)}


def mlp_seams(block: nn.Module) -> list[Seam]:
    """The MLPs of a block: one, or one of each of its ways."""
    return _ways(block) or [mlp_seam(block)]


def mlp_seam(block: nn.Module) -> Seam:
    """The MLP of a block; where it has none that keeps the resolution, its last layer alone."""
    width = block_width(block, type(block).__name__)
    layers = [(n, layer, _sizes(layer)) for n, layer in block.named_modules() if _sizes(layer) is not None]
    strides = any(_strides(layer) for layer in block.modules())
    for j in range(len(layers) - 1, -1, -1):
        last, layer, (inner, out) = layers[j]  # type: ignore[misc]
        if out != width or inner == width or not _pointwise(layer) or strides:
            continue
        for first, other, sizes in layers[:j]:
            if sizes == (width, inner) and _pointwise(other) and _is_conv(other) == _is_conv(layer):
                return Seam(first, last)
    last = writers(block)[-1]
    if _strides(block.get_submodule(last)):
        raise ValueError(f"no adapter can stand beside {last} of {type(block).__name__}, which strides")
    return Seam(last, last)


def sizes_of(block: nn.Module, name: str) -> tuple[int, int]:
    """Channels that the layer of that name reads and writes."""
    sizes = _sizes(block.get_submodule(name))
    assert sizes is not None
    return sizes


def after(block: nn.Module, name: str, adapter: nn.Module) -> None:
    """h ← h + A(h) for what the layer of that name returns."""
    _put(block, name, lambda layer: Sequential(layer, beside(adapter, block)))


def parallel(block: nn.Module, seam: Seam, adapter: nn.Module) -> None:
    """y ← y + A(x), for x the input of the seam's first layer and y the output of its last."""
    if seam.first == seam.last:
        _put(block, seam.last, lambda layer: Parallel(Tap(layer), beside(adapter, block), None))
        return
    _put(block, seam.first, Tap)
    tap = block.get_submodule(seam.first)
    assert isinstance(tap, Tap)
    _put(block, seam.last, lambda layer: Parallel(layer, beside(adapter, block), tap))


class _Wrapper(nn.Module):
    """A frozen layer, still answering for what its block asks of it (`weight` and the like)."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)


class Tap(_Wrapper):
    """A layer that remembers its input until somebody takes it."""

    seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.base_layer(x)

    def take(self) -> Tensor:
        x, self.seen = self.seen, None
        assert x is not None, "the block ran its last layer before its first"
        return x


class Sequential(_Wrapper):
    """h ← h + A(h)."""

    def __init__(self, base_layer: nn.Module, adapter: nn.Module) -> None:
        super().__init__(base_layer)
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        h = self.base_layer(x)
        return h + on_channels(self.adapter, h, _is_conv(self.base_layer))


class Parallel(_Wrapper):
    """y ← y + A(x), for x what the tap has seen; without one the layer's own input."""

    def __init__(self, base_layer: nn.Module, adapter: nn.Module, tap: Tap | None) -> None:
        super().__init__(base_layer)
        self.adapter = adapter
        self.tap = (base_layer if tap is None else tap,)  # in a tuple: no submodule of this one

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + on_channels(self.adapter, self.tap[0].take(), _is_conv(self.base_layer))  # type: ignore[operator]


def on_channels(adapter: nn.Module, x: Tensor, first: bool) -> Tensor:
    """The adapter on the channels of `x`: its last axis or, after a convolution, axis 1. In x's precision."""
    kind = next(adapter.parameters()).dtype
    given = x.movedim(1, -1) if first else x
    if not torch.is_autocast_enabled(x.device.type):
        given = given.to(kind)
    out = adapter(given).to(x.dtype)
    return out.movedim(-1, 1) if first else out


def _put(block: nn.Module, name: str, wrap: Any) -> None:
    if isinstance(block, nn.TransformerEncoderLayer):
        block.activation_relu_or_gelu = 0  # its fused path would go around the adapter
    parent = block.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], wrap(block.get_submodule(name)))


def _ways(block: nn.Module) -> list[Seam]:
    """The MLPs that a block names itself."""
    seams = {way: mlp_seam(block.get_submodule(way)) for way in getattr(block, "ways", ())}
    return [Seam(f"{way}.{seam.first}", f"{way}.{seam.last}") for way, seam in seams.items()]


def _is_idle(block: nn.Module, name: str) -> bool:
    return any(name == idle or name.startswith(f"{idle}.") for idle in getattr(block, "idle", ()))


def _attentions(block: nn.Module) -> list[str]:
    """Outermost modules of attention inside a block."""
    names = [name for name, m in block.named_modules() if name and "atten" in type(m).__name__.lower()]
    return [name for name in names if not any(name.startswith(outer + ".") for outer in names)]


def _sizes(layer: nn.Module) -> tuple[int, int] | None:
    """Channels read and written; None for what is no layer, or only lends its weights (torch's attention)."""
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.in_channels, layer.out_channels
    if type(layer).__name__ == "Conv1D":  # GPT-2's linear layer
        return layer.weight.shape[0], layer.nf  # type: ignore[index, return-value]
    return None


def _is_conv(layer: nn.Module) -> bool:
    while isinstance(layer, _Wrapper):
        layer = layer.base_layer
    return isinstance(layer, nn.modules.conv._ConvNd)


def _pointwise(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.modules.conv._ConvNd) or (
        layer.groups == 1 and set(layer.kernel_size) == {1}
    )


def _strides(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and set(layer.stride) != {1}
