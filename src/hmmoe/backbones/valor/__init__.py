"""VALOR (arXiv 2304.08345) in the manner of transformers.

model = ValorModel.from_official("VALOR-large")            # ckpt/model_step_N.pt and log/hps.json
model.save_pretrained("valor-large")                       # safetensors, read back by from_pretrained
processor = ValorProcessor.for_config(model.config, tokenizer)
"""

from transformers import AutoConfig, AutoModel

from .configuration import ValorAudioConfig, ValorConfig, ValorTextConfig, VideoSwinConfig
from .convert import Conversion
from .modeling import ValorModel, ValorOutput
from .processing import ValorProcessor

AutoConfig.register(ValorConfig.model_type, ValorConfig, exist_ok=True)
AutoModel.register(ValorConfig, ValorModel, exist_ok=True)

__all__ = [
    "Conversion",
    "ValorAudioConfig",
    "ValorConfig",
    "ValorModel",
    "ValorOutput",
    "ValorProcessor",
    "ValorTextConfig",
    "VideoSwinConfig",
]
