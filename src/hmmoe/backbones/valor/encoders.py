"""VALOR's encoders of one frame and of one audio clip, built on transformers' layers.

Both map a flat batch (F, ...) of frames or clips to `last_hidden_state` (F, N, D), first token = class token,
so either can be used alone as a tower.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import (
    ASTLayer,
    ASTPreTrainedModel,
)

from .configuration import ValorAudioConfig


class ClipFrames(nn.Module):
    """CLIP's image encoder with its last layer norm on every token, not only on the class token."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.clip = CLIPVisionModel(config)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Frames (F, 3, H, W) -> `last_hidden_state` (F, 1 + patches, D)."""
        states = self.clip(pixel_values).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.clip.post_layernorm(states))


class AudioEmbeddings(nn.Module):
    """Patches of a log-mel clip, a class token before them, and a learned place for each.

    Not transformers' `ASTEmbeddings`, which has a distillation token that VALOR lacks.
    """

    def __init__(self, config: ValorAudioConfig):
        super().__init__()
        stride = (config.frequency_stride, config.time_stride)
        bands, steps = config.num_mel_bins, config.max_length
        rows = (bands - config.patch_size) // stride[0] + 1
        columns = (steps - config.patch_size) // stride[1] + 1
        self.clip_shape = (bands, steps)
        self.first_conv = nn.Conv2d(1, config.hidden_size, kernel_size=config.patch_size, stride=stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Embedding(1 + rows * columns, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_values: Tensor) -> Tensor:
        """Clips (F, mel bands, time steps) -> (F, 1 + patches, D)."""
        if tuple(input_values.shape[1:]) != self.clip_shape:
            raise ValueError(
                f"audio clips of shape {tuple(input_values.shape[1:])} do not fit: give {self.clip_shape} "
                "(mel bands, time steps) per clip"
            )
        patches = self.first_conv(input_values[:, None]).flatten(2).transpose(1, 2)  # (F, patches, D)
        states = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return self.dropout(states + self.position_embeddings.weight)


class AudioEncoder(ASTPreTrainedModel):
    """Audio spectrogram transformer of pre-norm layers."""

    config_class = ValorAudioConfig

    def __init__(self, config: ValorAudioConfig):
        super().__init__(config)
        self.embeddings = AudioEmbeddings(config)
        self.layers = nn.ModuleList(ASTLayer(config) for _ in range(config.num_hidden_layers))
        self.last_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)

    def forward(self, input_values: Tensor) -> BaseModelOutput:
        """Clips (F, mel bands, time steps) -> `last_hidden_state` (F, 1 + patches, D)."""
        states = self.embeddings(input_values)
        for layer in self.layers:
            states = layer(states)
        return BaseModelOutput(last_hidden_state=self.last_layernorm(states))
