"""HMMoE: heterogeneous multi-modal mixture-of-experts adapters (arXiv 2503.20633).

Names load when they are first used, so that `import hmmoe` and the command line start at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "HMMoELayer": "hmmoe.layer",
    "Routing": "hmmoe.layer",
    "HMMoEConfig": "hmmoe.config",
    "HMMoEModel": "hmmoe.tuner",
    "MultimodalModel": "hmmoe.container",
    "MultimodalOutput": "hmmoe.container",
    "get_peft_model": "hmmoe.tuner",
    "from_pretrained": "hmmoe.tuner",
    "load_tower": "hmmoe.backbones",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hmmoe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
