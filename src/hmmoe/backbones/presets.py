"""Sets of towers as papers pair them, built on the meta device: sizes without weights or memory.

    python -m hmmoe.backbones.presets [budget]

prints what an HMMoE adapter of that budget is on each of them. To train such a pair, load its towers by hub
id with `load_tower` and take the options from `PRESETS[name].options`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hmmoe.container import MultimodalModel
from hmmoe.errors import unknown


@dataclass(frozen=True)
class Preset:
    """Frozen towers and where they meet.

    Attributes:
        what: the towers in words.
        build: the model without weights; call it under `torch.device("meta")`.
        options: of `HMMoEConfig`, beside the rank or budget.
    """

    what: str
    build: Callable[[], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)


SWINV2_L_192 = hf.Swinv2Config(
    image_size=192, embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12
)
WHISPER_SMALL = hf.WhisperConfig(
    d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072
)


def _pair(**towers: nn.Module) -> MultimodalModel:
    return MultimodalModel(towers, nn.Identity())


def _swin_htsat() -> nn.Module:
    # The pair of DG-SCT and AVMoE, which fuse at 12 points, stage by stage.
    return _pair(video=hf.Swinv2Model(SWINV2_L_192), audio=hf.ClapAudioModel(hf.ClapAudioConfig()))


def _swin_shared() -> nn.Module:
    # LAVISH: one vision tower sees the pictures and the mel pictures of the sound.
    return _pair(video=(swin := hf.Swinv2Model(SWINV2_L_192)), audio=swin)


def _clip_whisper() -> nn.Module:
    return _pair(
        video=hf.CLIPVisionModel(hf.CLIPVisionConfig(patch_size=16)),
        audio=WhisperEncoder(WHISPER_SMALL),
    )


def _vit_ast() -> nn.Module:
    return _pair(image=hf.ViTModel(hf.ViTConfig()), audio=hf.ASTModel(hf.ASTConfig()))


def _vit_bert() -> nn.Module:
    return _pair(image=hf.ViTModel(hf.ViTConfig()), text=hf.BertModel(hf.BertConfig()))


def _clip(vision: dict[str, Any], text: dict[str, Any]) -> nn.Module:
    return _pair(
        image=hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision)),
        text=hf.CLIPTextModel(hf.CLIPTextConfig(**text)),
    )


def _clip_b32() -> nn.Module:
    return _clip({"patch_size": 32}, {})


def _clip_l14() -> nn.Module:
    return _clip(
        {
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    )


def _vilt() -> nn.Module:
    return hf.ViltModel(hf.ViltConfig())


# One sequence: the tokens of the text, then those of the image.
_VILT = {"spans": {"text": [0, "input_ids"], "image": ["input_ids", None]}}


def _vlmo(size: str, images: int = 1) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from hmmoe.backbones.vlmo import VlmoConfig, VlmoModel

        return VlmoModel(VlmoConfig.preset(size, num_token_types=1 + images))

    return build


def _valor(size: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from hmmoe.backbones.valor import ValorConfig, ValorModel

        return ValorModel(ValorConfig() if size == "large" else ValorConfig.base())

    return build


# Frames and sound meet, the decoder reads what they left.
_VALOR = {"audio": "audio.layers.*", "text": "text.encoder.layer.*"}
_VALOR_LARGE = {"streams": {"video": "video.clip.encoder.layers.*", **_VALOR}}
_NLVR2 = {
    "spans": {"text": [0, "input_ids"], "left": ["input_ids", None, 0], "right": ["input_ids", None, 1]}
}
_VALOR_BASE = {"streams": {"video": "video.layers.*.blocks.*", **_VALOR}}

PRESETS: dict[str, Preset] = {
    "swinv2-l+hts-at": Preset("SwinV2-L at 192 px, HTS-AT (CLAP's audio tower)", _swin_htsat),
    "swinv2-l-shared": Preset("one SwinV2-L at 192 px for pictures and mel pictures", _swin_shared),
    "clip-b16+whisper-small": Preset("CLIP ViT-B/16, vision; Whisper-small's encoder", _clip_whisper),
    "vit-b+ast": Preset("ViT-B/16, Audio Spectrogram Transformer", _vit_ast),
    "clip-b32": Preset("CLIP ViT-B/32, vision and text", _clip_b32),
    "clip-l14": Preset("CLIP ViT-L/14, vision and text", _clip_l14),
    "vit-b+bert-base": Preset("ViT-B/16, BERT-base", _vit_bert),
    "vilt": Preset("ViLT-B/32, one sequence of text and image", _vilt, _VILT),
    "vlmo-base": Preset("VLMo-base at 224 px, one sequence", _vlmo("base"), _VILT),
    "vlmo-base-nlvr2": Preset("VLMo-base at 224 px, two images in turn", _vlmo("base", 2), _NLVR2),
    "vlmo-base-plus": Preset("VLMo-base+ at 224 px, one sequence", _vlmo("base_plus"), _VILT),
    "vlmo-large": Preset("VLMo-large at 224 px, one sequence", _vlmo("large"), _VILT),
    "valor-base": Preset("VALOR-B: VideoSwin-B, AST, shared BERT-base", _valor("base"), _VALOR_BASE),
    "valor-large": Preset("VALOR-L: CLIP ViT-L/14, AST, shared BERT-base", _valor("large"), _VALOR_LARGE),
}


def sizes(name: str, budget: float = 0.06) -> dict[str, Any]:
    """What an adapter of that budget is on a preset.

    Returns:
        `preset`, `points`, `rank`, the parameters `backbone`, `adapter` and `router`, and `share`, that is
        (adapter + router) / (backbone + adapter + router).

    Raises:
        ValueError: no such preset, or no rank meets the budget.
    """
    from hmmoe.config import HMMoEConfig
    from hmmoe.tuner import get_peft_model

    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    preset = PRESETS[name]
    with torch.device("meta"):
        model: Any = get_peft_model(preset.build(), HMMoEConfig(budget=budget, **preset.options))
    config, counts = model.peft_config["default"], model.base_model.parameter_counts()
    added = counts["adapter"] + counts["router"]
    return {
        "preset": name,
        "points": len(config.points),
        "rank": config.rank,
        **{part: counts[part] for part in ("backbone", "adapter", "router")},
        "share": added / (counts["backbone"] + added),
    }


def main(budget: float = 0.06) -> None:
    """Print the table of all presets."""
    print(f"{'preset':<22} points rank backbone M adapter M router M share %")
    for name in PRESETS:
        row = sizes(name, budget)
        millions = [row[part] / 1e6 for part in ("backbone", "adapter", "router")]
        print(
            f"{name:<22} {row['points']:>6} {row['rank']:>4} {millions[0]:>10.1f} {millions[1]:>9.2f} "
            f"{millions[2]:>8.3f} {100 * row['share']:>7.2f}"
        )


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
