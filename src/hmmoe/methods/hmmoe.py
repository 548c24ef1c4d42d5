"""HMMoE itself (arXiv 2503.20633): at every fusion point h_m = h_m + ΔX_m, with ΔX_m of `hmmoe.layer`."""

from dataclasses import dataclass, field, fields
from typing import Any

from hmmoe.methods.base import Budgeted
from hmmoe.options import about


@dataclass
class HMMoE(Budgeted):
    experts: dict | None = field(
        default=None, metadata=about("number of experts of each kind; HMMoEConfig's own if not given")
    )
    router: str | None = field(
        default=None,
        metadata=about("a gate per sample, per token, or alike", choices=("sample", "token", "uniform")),
    )
    top_k: int | None = field(
        default=None, metadata=about("experts kept per gate; all if not given", above=0)
    )
    latents: int | None = field(
        default=None, metadata=about("latent tokens of cross-attention between long streams", above=0)
    )
    exact_tokens: int | None = field(
        default=None, metadata=about("up to this many keys cross-attention is exact", above=0)
    )
    balance_coef: float | None = field(
        default=None, metadata=about("weight of the load-balance loss", least=0)
    )
    z_coef: float | None = field(default=None, metadata=about("weight of the router's z-loss", least=0))
    dropout: float | None = field(
        default=None, metadata=about("dropout of the experts' outputs", least=0, most=0.99)
    )
    modality_dropout: float | None = field(
        default=None, metadata=about("chance that the experts lose sight of a stream", least=0, most=0.99)
    )
    scale: float | None = field(
        default=None, metadata=about("scale of the updates, as LoRA's alpha / r", above=0)
    )
    up_std: float | None = field(
        default=None, metadata=about("first values of the up projections; 0 is the frozen model", least=0)
    )

    name = "hmmoe"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        import hmmoe

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        config = hmmoe.HMMoEConfig(
            **{k: v for k, v in given.items() if v is not None}, modules_to_save=["head"]
        )
        return hmmoe.get_peft_model(model, config)

    def save(self, model: Any, folder: str) -> None:
        model.save_pretrained(folder)

    def load(self, model: Any, folder: str) -> Any:
        import hmmoe

        return hmmoe.from_pretrained(model, folder)
