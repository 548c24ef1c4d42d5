"""VLMo as transformers models (Bao et al., arXiv 2111.02358); transformers itself has none.

config = VlmoConfig.preset("base", image_size=480)
model = VlmoForQuestionAnswering.from_official("vlmo_base_patch16_480_vqa.pt", config)
model.save_pretrained("vlmo-base-vqa")                  # safetensors, read back by from_pretrained
"""

from transformers import AutoConfig, AutoModel

from .configuration import PRESETS, VlmoConfig
from .convert import Conversion
from .heads import VlmoForNlvr2, VlmoForQuestionAnswering
from .modeling import VlmoModel, VlmoPreTrainedModel
from .processing import VlmoProcessor

AutoConfig.register("vlmo", VlmoConfig, exist_ok=True)
AutoModel.register(VlmoConfig, VlmoModel, exist_ok=True)

__all__ = [
    "PRESETS",
    "Conversion",
    "VlmoConfig",
    "VlmoForNlvr2",
    "VlmoForQuestionAnswering",
    "VlmoModel",
    "VlmoPreTrainedModel",
    "VlmoProcessor",
]
