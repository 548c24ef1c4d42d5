"""Sizes of VALOR (Chen et al., arXiv 2304.08345): a frame encoder, an audio encoder and one shared BERT.

Parameters, in millions, tied weights once (the caption head's matrix is the word embedding):

    part                               VALOR-B   VALOR-L
    frames: VideoSwin-B, CLIP-ViT-L/14    87.6     303.2
    sound: AST                            85.4      85.4
    BERT-base as encoder and decoder     137.3     137.3     28.4 of these are its cross-attention
    rest: media memory, heads              3.5       3.5
    sum                                  313.8     529.4
    paper, table 2                       342       593

The public code (github.com/TXH-mercury/VALOR, 1b51e66) does not make up the difference. As its scripts run
it, with one cross-attention over frames and sound (`cross_attn_type` "va_concate", the default and the only
one of its four types whose keys are called `cross_attn`), one BERT (`share_txt_and_multimodal`) and BERT for
the text (scripts/pretrain.sh), it holds what is counted here and besides, never run, BERT's pooler (0.6) and
in VALOR-L the rest of CLIP (text tower 123.7, projection 0.8): 314.4 and 654.4. The paper's figure of VALOR-B
fits the code's other types, which have a cross-attention for each medium: 313.8 + 28.4 = 342.2. The same for
VALOR-L gives 557.7; what the other 35 would be is not found. Checkpoints decide: the converter refuses any
key of the decoder that it has no place for.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ASTConfig, AutoConfig, BertConfig, CLIPVisionConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

VIT_L_14: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}


@strict
class VideoSwinConfig(PreTrainedConfig):
    """Video Swin transformer; the defaults are VideoSwin-B as VALOR-B uses it (time is not strided).

    Attributes:
        embed_dim: width of the first stage; it doubles at each of the following ones.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window: (frames, rows, columns) of an attention window, in patches.
        patch: (frames, rows, columns) of the patch convolution's kernel; its stride is (1, rows, columns).
        mlp_ratio: hidden width of the feed-forward part over the width of the stage.
        layer_norm_eps: epsilon of every layer norm.
    """

    model_type = "valor_video_swin"

    embed_dim: int = 128
    depths: list[int] | tuple[int, ...] = (2, 2, 18, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    window: list[int] | tuple[int, ...] = (8, 7, 7)
    patch: list[int] | tuple[int, ...] = (2, 4, 4)
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}: "
                "give one entry per stage"
            )
        for stage, heads in enumerate(self.num_heads):
            width = self.embed_dim * 2**stage
            if width % heads:
                raise ValueError(
                    f"num_heads[{stage}]={heads} does not divide the width {width} of that stage"
                )
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage, which is what the encoder returns."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)


@strict
class ValorAudioConfig(ASTConfig):
    """Audio spectrogram transformer on clips of 64 mel bands x 512 steps, in 16 x 16 patches side by side."""

    model_type = "valor_audio"

    num_mel_bins: int = 64
    max_length: int = 512
    patch_size: int = 16
    frequency_stride: int = 16
    time_stride: int = 16


@strict
class ValorTextConfig(BertConfig):
    """BERT as text encoder and multimodal decoder in one; token type 2 marks the words of the task prompt."""

    model_type = "valor_text"

    is_decoder: bool = True
    add_cross_attention: bool = True
    type_vocab_size: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        if not (self.is_decoder and self.add_cross_attention and self.type_vocab_size == 3):
            raise ValueError(
                "text_config must keep is_decoder=True, add_cross_attention=True and type_vocab_size=3, "
                "the shape of VALOR's shared text encoder and decoder"
            )
        super().__post_init__(**kwargs)


# sub-configurations are told apart by their model_type
for part in (VideoSwinConfig, ValorAudioConfig, ValorTextConfig):
    AutoConfig.register(part.model_type, part, exist_ok=True)


@strict
class ValorConfig(PreTrainedConfig):
    """Sizes of the whole system. `ValorConfig()` is VALOR-L, `ValorConfig.base()` VALOR-B.

    Attributes:
        vision_config: a `CLIPVisionConfig` (VALOR-L) or a `VideoSwinConfig` (VALOR-B), or a dict with its
            `model_type`.
        audio_config: a `ValorAudioConfig` or a dict of its fields.
        text_config: a `ValorTextConfig` or a dict of its fields.
        contra_dim: width of the space in which text, frames and audio clips are compared.
        contra_temp: temperature at the start; with CLIP frames the learned `logit_scale` is used instead.
        max_frames: rows of the table that tells frames apart in the decoder.
        max_clips: the same for audio clips.
        use_task_prompt: whether the weights were trained with a task sentence before the text (VALOR-L).
        mga_weight: weight of the contrastive loss beside the captioning loss.
        tie_word_embeddings: the caption head's last matrix is the word embedding; VALOR has no other form.
    """

    model_type = "valor"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="clip_vision_model", init_kwargs=VIT_L_14),
        "audio_config": ValorAudioConfig,
        "text_config": ValorTextConfig,
    }

    vision_config: Any = None
    audio_config: Any = None
    text_config: Any = None
    contra_dim: int = 512
    contra_temp: float = 0.07
    max_frames: int = 32
    max_clips: int = 32
    use_task_prompt: bool = True
    mga_weight: float = 1.5
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not isinstance(self.vision_config, CLIPVisionConfig | VideoSwinConfig):
            raise ValueError(
                f"vision_config is a {type(self.vision_config).__name__}: "
                "give a CLIPVisionConfig (VALOR-L) or a VideoSwinConfig (VALOR-B)"
            )

    @classmethod
    def base(cls, **options: Any) -> "ValorConfig":
        """VALOR-B: VideoSwin-B frames, no task prompt."""
        return cls(**{"vision_config": VideoSwinConfig(), "use_task_prompt": False, **options})

    @property
    def clip_frames(self) -> bool:
        """Whether frames go through CLIP one by one (VALOR-L) rather than through VideoSwin together."""
        return isinstance(self.vision_config, CLIPVisionConfig)
