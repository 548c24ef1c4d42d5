"""HMMoEConfig: what an adapter is, as a PEFT config (JSON on disk, keys in any order)."""

from dataclasses import dataclass, field
from typing import ClassVar

from peft import PeftConfig

from hmmoe.errors import at_least_one, unknown
from hmmoe.layer import DEFAULT_EXPERTS, ROUTERS, check_experts


@dataclass
class HMMoEConfig(PeftConfig):
    """Configuration of HMMoE adapters (arXiv 2503.20633).

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    target_modules: ClassVar[None] = None  # PEFT looks for it; blocks are named by `streams` and `points`

    streams: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Modality name -> glob of the module paths of its blocks, such as "
            "{'image': 'vision_model.encoder.layers.*'}. None: the towers of a MultimodalModel, their blocks "
            "found by themselves."
        },
    )
    points: int | list[dict[str, int]] | None = field(
        default=None,
        metadata={
            "help": "Fusion points: a number of them, spread evenly over the depths; or a list of modality "
            "-> block index (negative counts from the end); None: one per block of the shallowest stream."
        },
    )
    spans: dict[str, list[int | str | None]] | None = field(
        default=None,
        metadata={
            "help": "For a single sequence that holds all streams: modality -> [start, stop], each a token "
            "index, None, or the name of a model input whose length (dim 1) is the boundary; and where a "
            "sample is read in several passes the number of the pass. None: as the model declares (`spans`)."
        },
    )
    widths: dict[str, list[int]] | None = field(
        default=None,
        metadata={"help": "Modality -> width of its states at each fusion point. None: read from the model."},
    )
    depths: dict[str, int] | None = field(
        default=None,
        metadata={
            "help": "Modality -> number of its blocks. Filled in; a saved adapter fits towers of this depth "
            "only."
        },
    )
    blocks: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Modality -> class of its blocks. Filled in; a saved adapter fits towers of such blocks "
            "only."
        },
    )
    rank: int | None = field(
        default=None, metadata={"help": "Channels of each expert. Give this or `budget`."}
    )
    budget: float | None = field(
        default=None,
        metadata={
            "help": "Share of adapters and routers in adapters + backbones; solves for the largest rank "
            "within it."
        },
    )
    experts: dict[str, int] = field(
        default_factory=lambda: dict(DEFAULT_EXPERTS), metadata={"help": "Expert kind -> number of experts."}
    )
    router: str = field(
        default="sample",
        metadata={"help": "Route each 'sample' or each 'token', or weigh all experts alike: 'uniform'."},
    )
    top_k: int | None = field(
        default=None, metadata={"help": "Keep the k largest router weights; None keeps all."}
    )
    latents: int = field(
        default=16, metadata={"help": "Latent tokens of cross-attention between long streams."}
    )
    exact_tokens: int = field(default=64, metadata={"help": "Up to this many keys cross-attention is exact."})
    sample_context: bool | None = field(
        default=None,
        metadata={
            "help": "Experts also know the sample as a whole, all streams pooled over its frames and "
            "segments. None: where the model has folded streams."
        },
    )
    balance_coef: float = field(default=1e-2, metadata={"help": "Weight of the load-balancing loss."})
    z_coef: float = field(default=1e-3, metadata={"help": "Weight of the router's z-loss."})
    dropout: float = field(
        default=0.0,
        metadata={
            "help": "Dropout, in training, of the experts' outputs and of what they know of other streams."
        },
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={"help": "In training, chance per sample that the others' experts do not see a stream."},
    )
    scale: float = field(
        default=1.0,
        metadata={
            "help": "Scale of the updates, as LoRA's alpha / r: larger learns faster, smaller holds on to "
            "the frozen model longer."
        },
    )
    up_std: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of the up projections at the start; 0: start as the frozen model."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules besides the adapters to train and save, such as the task head."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from hmmoe.tuner import HMMOE  # registers the method with PEFT

        self.peft_type = HMMOE
        if (self.rank is None) == (self.budget is None):
            raise ValueError(f"give either rank or budget, got rank={self.rank}, budget={self.budget}")
        at_least_one(rank=self.rank)
        if self.budget is not None and not 0 < self.budget < 1:
            raise ValueError(f"budget is a share between 0 and 1, got {self.budget}")
        if self.router not in ROUTERS:
            raise ValueError(unknown("router", self.router, ROUTERS))
        counts = check_experts(self.experts)
        if self.top_k is not None and not 1 <= self.top_k <= sum(counts.values()):
            raise ValueError(
                f"top_k must be between 1 and the {sum(counts.values())} experts, got {self.top_k}"
            )
        points = self.points if isinstance(self.points, int) else None
        at_least_one(points=points, latents=self.latents, exact_tokens=self.exact_tokens)
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if self.up_std < 0:
            raise ValueError(f"up_std must be at least 0, got {self.up_std}")
        if self.spans is not None and any(len(span) not in (2, 3) for span in self.spans.values()):
            raise ValueError(
                f"spans must be modality -> [start, stop] or [start, stop, pass], got {self.spans}"
            )
