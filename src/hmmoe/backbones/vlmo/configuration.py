"""Sizes of VLMo: base, base_plus and large, at any square image size (Bao et al., arXiv 2111.02358)."""

from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hmmoe.errors import unknown

# Farthest text the relative-position table can hold, whatever length is used: the table was laid out for the
# text-only pre-training stage and is kept as it is by all later ones.
TABLE_TEXT_LENGTH = 196

PRESETS: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "fusion_layer": 10},
    "base_plus": {
        "hidden_size": 544,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "fusion_layer": 21,
        "position_embedding": "absolute",
        "layer_scale": None,
    },
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "fusion_layer": 21},
}


@strict
class VlmoConfig(PreTrainedConfig):
    """Configuration of every VLMo model here. The defaults are VLMo-base at 224 pixels.

    Args:
        vocab_size: Rows of the word embedding (bert-base-uncased).
        hidden_size: Width D of the token states.
        num_hidden_layers: Number of Multiway blocks.
        num_attention_heads: Heads of the shared self-attention; divides `hidden_size`.
        mlp_ratio: Hidden width of each feed-forward expert as a multiple of D.
        image_size: Side of the square image in pixels; a multiple of `patch_size`.
        patch_size: Side of one patch in pixels.
        num_channels: Colour channels of the image.
        max_text_length: Text tokens the processor pads to, and rows of the absolute text positions.
        fusion_layer: First block (from 0) with a vision-language expert. Blocks below it send the text and
            the image part of a joint input through their own experts.
        position_embedding: "relative" (base, large: one bias table for all blocks) or "absolute" (base_plus).
        layer_scale: Initial value of the residual scales gamma, or None for none (base_plus).
        num_token_types: 2 (text, image), or 3 (text, first image, second image) for NLVR2.
        num_answers: Outputs of the VQA head.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0; also the dropout of the
            text embedding, as in the official code. Only active in training mode.
        layer_norm_eps: Epsilon of the layer norms of the blocks.
        text_layer_norm_eps: Epsilon of the layer norm of the text embedding.
        initializer_range: Standard deviation of random weights.
        pad_token_id: Word whose embedding gets no gradient.

    Raises:
        ValueError: If a value does not fit; the message names the field.
    """

    model_type = "vlmo"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    max_text_length: int = 40
    fusion_layer: int = 10
    position_embedding: str = "relative"
    layer_scale: float | None = 0.1
    num_token_types: int = 2
    num_answers: int = 3129
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    text_layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.position_embedding not in ("relative", "absolute"):
            raise ValueError(unknown("position_embedding", self.position_embedding, ("relative", "absolute")))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.image_size <= 0 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} must be a positive multiple of patch_size={self.patch_size}"
            )
        if not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer={self.fusion_layer} must lie between 0 and "
                f"num_hidden_layers={self.num_hidden_layers}"
            )
        if self.num_token_types not in (2, 3):
            raise ValueError(f"num_token_types={self.num_token_types} must be 2, or 3 for NLVR2")
        if not 2 <= self.max_text_length <= TABLE_TEXT_LENGTH:
            raise ValueError(
                f"max_text_length={self.max_text_length} must lie between 2 and {TABLE_TEXT_LENGTH}"
            )
        super().__post_init__(**kwargs)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @classmethod
    def preset(cls, size: str, **overrides: Any) -> "VlmoConfig":
        """The published size `base`, `base_plus` or `large`.

        Args:
            size: Name of the size.
            **overrides: Any field, most often `image_size` (224 pre-training, 384 NLVR2, 480 VQA).

        Raises:
            ValueError: If `size` or the name of a field is not known.
        """
        if size not in PRESETS:
            raise ValueError(unknown("VLMo size", size, PRESETS))
        names = {field.name for field in fields(cls)}
        for name in overrides:
            if name not in names:
                raise ValueError(unknown("VlmoConfig field", name, names))
        return cls(**{**PRESETS[size], **overrides})
