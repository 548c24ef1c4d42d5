"""A frozen encoder with what turns raw items into its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

MODALITIES = ("image", "audio", "text", "video")


@dataclass
class Tower:
    """One modality's encoder, frozen and in eval mode.

    Attributes:
        module: called with the preprocessed tensors; its output has `last_hidden_state`.
        preprocess: raw items -> the module's keyword inputs, tensors of a fixed shape with the items in
            front. An item is a PIL image or uint8 array (H, W, 3) or (H, W), a pair (float32 waveform (S,),
            samples per second), a string, or a list of images (video).
        modality: image, audio, text or video.
        width: channels of `last_hidden_state`.
    """

    module: nn.Module
    preprocess: Callable[[list[Any]], dict[str, Tensor]]
    modality: str
    width: int


def freeze(module: nn.Module) -> nn.Module:
    """Eval mode and no gradients for any weight."""
    return module.eval().requires_grad_(False)
