"""Seams of transformers' encoders are found without knowing their names; the names are written here."""

import pytest
import torch
import transformers as tf

from hmmoe.methods.parts.seams import mlp_seam, writers
from hmmoe.streams import find_blocks

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MLP = {"intermediate_size": 32}
FAMILIES = {
    "vit": (tf.ViTModel, tf.ViTConfig, SIZES | MLP),
    "clip": (tf.CLIPVisionModel, tf.CLIPVisionConfig, SIZES | MLP),
    "bert": (tf.BertModel, tf.BertConfig, SIZES | MLP),
    "swinv2": (
        tf.Swinv2Model,
        tf.Swinv2Config,
        {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    "wav2vec2": (tf.Wav2Vec2Model, tf.Wav2Vec2Config, SIZES | MLP),
    "dinov2": (tf.Dinov2Model, tf.Dinov2Config, SIZES),
    "gpt2": (tf.GPT2Model, tf.GPT2Config, {"n_embd": 16, "n_layer": 1, "n_head": 2}),
    "t5": (
        tf.T5EncoderModel,
        tf.T5Config,
        {"d_model": 16, "d_kv": 12, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    ),
    "convnext": (
        tf.ConvNextModel,
        tf.ConvNextConfig,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
}
FOUND = {  # attention's last projection, first and last layer of the MLP
    "vit": ("attention.o_proj", "mlp.fc1", "mlp.fc2"),
    "clip": ("self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
    "bert": ("attention.output.dense", "intermediate.dense", "output.dense"),
    "swinv2": ("attention.output.dense", "intermediate.dense", "output.dense"),
    "wav2vec2": ("attention.out_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"),
    "dinov2": ("attention.o_proj", "mlp.fc1", "mlp.fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "t5": ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"),
    "convnext": (None, "pwconv1", "pwconv2"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_of(family):
    model, config, options = FAMILIES[family]
    with torch.device("meta"):
        tower = model(config(**options))
    block = tower.get_submodule(find_blocks(tower)[-1])
    attention, first, last = FOUND[family]
    assert writers(block) == [name for name in (attention, last) if name]
    seam = mlp_seam(block)
    assert (seam.first, seam.last) == (first, last)
