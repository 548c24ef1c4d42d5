"""VALOR (arXiv 2304.08345) in the manner of transformers: configuration, model, processor, official checkpoints."""

from .configuration import ValorConfig, VideoSwinConfig
from .convert import Conversion, convert_state_dict, from_official
from .modeling import ValorModel, ValorOutput

__all__ = [
    "Conversion",
    "ValorConfig",
    "ValorModel",
    "ValorOutput",
    "VideoSwinConfig",
    "convert_state_dict",
    "from_official",
]
