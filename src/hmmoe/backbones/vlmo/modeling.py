"""VLMo: one Transformer for images, texts and pairs of both (Bao et al., arXiv 2111.02358, section 3).

    Multiway block          x ← x + γ1 · MSA(LN(x))            self-attention shared by all modalities
                            x ← x + γ2 · FFN_way(LN_way(x))    way = image | text | vision-language

    image alone             image expert in every block
    text alone              text expert in every block
    [text ; image]          below `fusion_layer` each part through its own expert, from there on the
                            vision-language expert

Module names follow the official checkpoint, less its `transformer.` prefix.
"""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from .configuration import TABLE_TEXT_LENGTH, VlmoConfig
from .convert import Conversion, convert, read_checkpoint
from .positions import relative_position_index, table_rows


class DropPath(nn.Module):
    """Drops a residual branch for whole samples with probability `rate` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return branch * keep / (1 - self.rate)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain products, scores in float32 or better; called like transformers' other kinds."""
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = (query * scaling).to(precise) @ key.to(precise).transpose(-1, -2)  # (B, H, N, N)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        # The lowest finite value, not -inf: a sample without any real token stays finite.
        scores = scores.masked_fill(~attention_mask, torch.finfo(precise).min)
    weights = scores.softmax(-1).to(value.dtype)
    return (weights @ value).transpose(1, 2), weights


class VlmoAttention(nn.Module):
    """Multi-head self-attention; queries and values have a bias, keys have none."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, position_bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D), mask (B, N), bias (H, N, N) -> (B, N, D) and, eager only, weights (B, H, N, N)."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key, value = (
            y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H, N, D/H)
            for y in (query + self.q_bias, key, value + self.v_bias)
        )
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        y, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask[:, None, None, :] if attention_mask is not None else None,
            scaling=self.head_dim**-0.5,
            position_bias=position_bias[None].to(query.dtype) if position_bias is not None else None,
        )
        return self.proj(y.flatten(2)), weights


class VlmoMlp(nn.Module):
    """One feed-forward expert."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_ratio * config.hidden_size)
        self.fc2 = nn.Linear(config.mlp_ratio * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VlmoBlock(GradientCheckpointingLayer):
    """Multiway block: shared attention, then the expert of the modality."""

    def __init__(self, config: VlmoConfig, index: int) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

        self.norm1 = norm()
        self.attn = VlmoAttention(config)
        self.norm2_text, self.mlp_text = norm(), VlmoMlp(config)
        self.norm2_imag, self.mlp_imag = norm(), VlmoMlp(config)
        self.fused = index >= config.fusion_layer
        if self.fused:
            self.norm2_vl, self.mlp_vl = norm(), VlmoMlp(config)
        self.gamma_1: nn.Parameter | float = 1.0
        self.gamma_2: nn.Parameter | float = 1.0
        if config.layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((config.hidden_size,), config.layer_scale))
            self.gamma_2 = nn.Parameter(torch.full((config.hidden_size,), config.layer_scale))
        self.drop_path = DropPath(config.drop_path_rate * index / max(1, config.num_hidden_layers - 1))
        # What runs for a pair of text and image, for methods that adapt parts of a block.
        single = ("mlp_text", "mlp_imag")
        self.ways: tuple[str, ...] = ("mlp_vl",) if self.fused else single
        self.idle: tuple[str, ...] = single if self.fused else ()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        text_length: int = 0,
    ) -> Tensor:
        """One block over a sequence [text ; image].

        Args:
            hidden_states: (B, N, D).
            attention_mask: Bool (B, N), True where a token is real; None if all are.
            position_bias: (H, N, N), added to the attention scores; None without relative positions.
            text_length: How many of the N tokens, from the front, are text: 0 is an image alone, N a text
                alone.

        Returns:
            (B, N, D).
        """
        x = hidden_states
        y, _ = self.attn(self.norm1(x), attention_mask, position_bias)
        x = x + self.drop_path(self.gamma_1 * y)
        return x + self.drop_path(self.gamma_2 * self._feed_forward(x, text_length))

    def _feed_forward(self, x: Tensor, text_length: int) -> Tensor:
        if text_length == 0:
            return self.mlp_imag(self.norm2_imag(x))
        if text_length == x.shape[1]:
            return self.mlp_text(self.norm2_text(x))
        if self.fused:
            return self.mlp_vl(self.norm2_vl(x))
        text, image = x[:, :text_length], x[:, text_length:]
        return torch.cat([self.mlp_text(self.norm2_text(text)), self.mlp_imag(self.norm2_imag(image))], dim=1)


class VlmoTextEmbeddings(nn.Module):
    """BERT's embedding; places are added only where VLMo has no relative positions."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)  # BERT's own; VLMo only uses row 0
        self.position_embeddings = None
        if config.position_embedding == "absolute":
            self.position_embeddings = nn.Embedding(config.max_text_length, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.text_layer_norm_eps)
        self.dropout = nn.Dropout(config.drop_path_rate)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        x = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        return self.dropout(self.LayerNorm(x))


class VlmoPatchEmbed(nn.Module):
    """Square patches as tokens, row by row."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, g², D)."""
        return self.proj(pixel_values.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class VlmoPooler(nn.Module):
    """The first token through one tanh layer: [CLS] of the text, or of the image where there is no text."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return torch.tanh(self.dense(states[:, 0]))


class VlmoPreTrainedModel(PreTrainedModel):
    """Random weights, saving and loading; loading of official checkpoints."""

    config_class = VlmoConfig
    config: VlmoConfig
    base_model_prefix = "vlmo"
    input_modalities = ["image", "text"]  # noqa: RUF012 (transformers' own attributes)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VlmoBlock"]  # noqa: RUF012
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": VlmoBlock, "attentions": VlmoAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VlmoModel):
            init.normal_(module.cls_token, std=self.config.initializer_range)
            if module.pos_embed is not None:
                init.normal_(module.pos_embed, std=self.config.initializer_range)
            if module.relative_position_bias_table is not None:
                init.zeros_(module.relative_position_bias_table)
        elif isinstance(module, VlmoAttention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)
        elif isinstance(module, VlmoBlock):
            for gamma in (module.gamma_1, module.gamma_2):
                if isinstance(gamma, nn.Parameter) and self.config.layer_scale is not None:
                    init.constant_(gamma, self.config.layer_scale)

    @classmethod
    def from_official(
        cls,
        source: str | PathLike[str] | Mapping[str, Any],
        config: VlmoConfig,
        *,
        output_loading_info: bool = False,
    ) -> Any:
        """Builds the model from a checkpoint of the VLMo authors.

        Positions are resized to `config.image_size`, a third token type is made from the second where
        `config.num_token_types` is 3. What the model lacks or the checkpoint has beyond it is logged by name.

        Args:
            source: Path of a `.pt`, `.ckpt` or `.safetensors` file, or the loaded checkpoint: a state dict,
                bare or under "state_dict", "module" or "model".
            config: Size of the model, for example `VlmoConfig.preset("base", image_size=480)`.
            output_loading_info: Return the lists of keys as well.

        Returns:
            The model in evaluation mode, or (model, `Conversion`).

        Raises:
            ValueError: If the checkpoint is of another size or family; names the first key that differs.
        """
        model = cls(config)
        conversion: Conversion = convert(read_checkpoint(source), model.state_dict(), config)
        model.load_state_dict(conversion.state_dict, strict=False)
        conversion.log()
        model.eval()
        return (model, conversion) if output_loading_info else model


class VlmoModel(VlmoPreTrainedModel):
    """The encoder. Its blocks live in `blocks` and take and return states (B, N, D) of [text ; image]."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = None
        self.relative_position_bias_table = None
        if config.position_embedding == "absolute":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.hidden_size))
        else:
            columns = config.num_attention_heads * config.num_hidden_layers
            self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows(config.grid), columns))
        self.patch_embed = VlmoPatchEmbed(config)
        self.text_embeddings = VlmoTextEmbeddings(config)
        self.token_type_embeddings = nn.Embedding(config.num_token_types, config.hidden_size)
        self.blocks = nn.ModuleList(VlmoBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = VlmoPooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_embeddings.word_embeddings = value  # type: ignore[assignment]

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes texts, images, or pairs of both.

        Args:
            input_ids: (B, L) words; None for images alone.
            attention_mask: (B, L), 1 or True where a word is real; None if all are.
            pixel_values: (B, C, S, S) with S = `config.image_size`; None for texts alone.
            image_token_type_ids: (B,) token type of each image, 1 if not given; 2 is the second image of
                NLVR2.

        Returns:
            `last_hidden_state` (B, N, D) with N = L, 1 + g² or L + 1 + g²; `pooler_output` (B, D); on request
            `hidden_states` and (eager attention only) `attentions`.

        Raises:
            ValueError: If both inputs are missing or a shape does not fit the configuration.
        """
        parts = []
        if input_ids is not None:
            parts.append(self._embed_text(input_ids))
        if pixel_values is not None:
            parts.append(self._embed_image(pixel_values, image_token_type_ids))
        if not parts:
            raise ValueError("VLMo got neither input_ids nor pixel_values; give at least one of them")
        if parts[0].shape[0] != parts[-1].shape[0]:
            raise ValueError(f"{parts[0].shape[0]} texts do not pair with {parts[-1].shape[0]} images")
        text_length = input_ids.shape[1] if input_ids is not None else 0
        x = torch.cat(parts, dim=1)  # (B, N, D)
        mask = None
        if input_ids is not None and attention_mask is not None:
            mask = F.pad(attention_mask.bool(), (0, x.shape[1] - text_length), value=True)  # (B, N)

        index = None
        if self.relative_position_bias_table is not None:
            index = relative_position_index(
                text_length, self.config.grid, image=pixel_values is not None, device=x.device
            )
        for number, block in enumerate(self.blocks):
            bias = self._position_bias(number, index)
            x = block(x, attention_mask=mask, position_bias=bias, text_length=text_length)
        x = self.norm(x)
        return BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=self.pooler(x))

    def _embed_text(self, input_ids: Tensor) -> Tensor:
        limit = TABLE_TEXT_LENGTH if self.pos_embed is None else self.config.max_text_length
        if not 1 <= input_ids.shape[1] <= limit:
            raise ValueError(
                f"input_ids has {input_ids.shape[1]} tokens a text; this VLMo takes 1 to {limit}"
            )
        return self.text_embeddings(input_ids) + self.token_type_embeddings.weight[0]

    def _embed_image(self, pixel_values: Tensor, token_types: Tensor | None) -> Tensor:
        wanted = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.shape[1:] != wanted:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; this VLMo takes (batch, {wanted[0]}, "
                f"{wanted[1]}, {wanted[2]})"
            )
        patches = self.patch_embed(pixel_values)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)  # (B, 1+g², D)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if token_types is None:
            return x + self.token_type_embeddings.weight[1]
        return x + self.token_type_embeddings(token_types)[:, None]

    def _position_bias(self, block: int, index: Tensor | None) -> Tensor | None:
        """The block's own columns of the table, read for every pair: (H, N, N)."""
        if index is None or self.relative_position_bias_table is None:
            return None
        heads = self.config.num_attention_heads
        columns = self.relative_position_bias_table[:, block * heads : (block + 1) * heads]
        return columns.T[:, index]
