"""Unmodified transformers encoders of many families, tiny and with random weights: all can meet another."""

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import hmmoe
from hmmoe import HMMoEConfig, MultimodalModel
from small import wake

COMMON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {**COMMON, "image_size": 16, "patch_size": 8}
TEXT = {**COMMON, "vocab_size": 50, "pad_token_id": 0}
STAGES = {
    "image_size": 32,
    "patch_size": 4,
    "depths": [1, 2],
    "embed_dim": 8,
    "num_heads": [1, 2],
    "window_size": 4,
}


def pixels(side: int = 16, channels: int = 3) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, channels, side, side)}


def words() -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(3, 50, (2, 6)),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
    }


class Plain(nn.Module):
    """No transformers at all: a list of torch's own blocks."""

    def __init__(self, block: str) -> None:
        super().__init__()
        if block == "encoder":
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 24, batch_first=True) for _ in range(2)
            )
        else:
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(2)
            )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _clap() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 1, 64, 16), "is_longer": torch.zeros(2, 1, dtype=torch.bool)}


FAMILIES = {
    "clip_vision": (lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**IMAGE)), pixels),
    "clip_text": (
        lambda: tf.CLIPTextModel(tf.CLIPTextConfig(**TEXT, bos_token_id=1, eos_token_id=2)),
        words,
    ),
    "siglip": (lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**IMAGE)), pixels),
    "siglip_text": (
        lambda: tf.SiglipTextModel(tf.SiglipTextConfig(**TEXT, bos_token_id=1, eos_token_id=2)),
        words,
    ),
    "vit": (lambda: tf.ViTModel(tf.ViTConfig(**IMAGE)), pixels),
    "deit": (lambda: tf.DeiTModel(tf.DeiTConfig(**IMAGE)), pixels),
    "dinov2": (lambda: tf.Dinov2Model(tf.Dinov2Config(**IMAGE)), pixels),
    "beit": (lambda: tf.BeitModel(tf.BeitConfig(**IMAGE)), pixels),
    "swin": (lambda: tf.SwinModel(tf.SwinConfig(**STAGES)), lambda: pixels(32)),
    "swinv2": (lambda: tf.Swinv2Model(tf.Swinv2Config(**STAGES)), lambda: pixels(32)),
    "convnext": (
        lambda: tf.ConvNextModel(tf.ConvNextConfig(depths=[1, 2], hidden_sizes=[8, 16], num_stages=2)),
        lambda: pixels(32),
    ),
    "resnet": (
        lambda: tf.ResNetModel(tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])),
        lambda: pixels(32),
    ),
    "efficientnet": (
        lambda: tf.EfficientNetModel(
            tf.EfficientNetConfig(
                image_size=32,
                width_coefficient=0.25,
                depth_coefficient=0.3,
                depth_divisor=4,
                hidden_dim=320,
                initializer_range=0.4,
            )
        ),
        lambda: pixels(32),
    ),
    "hiera": (
        lambda: tf.HieraModel(
            tf.HieraConfig(
                image_size=[32, 32],
                embed_dim=8,
                depths=[1, 1, 2],
                num_heads=[1, 2, 4],
                num_query_pool=2,
                masked_unit_size=[4, 4],
            )
        ),
        lambda: pixels(32),
    ),
    "sam2_hiera": (
        lambda: tf.Sam2HieraDetModel(
            tf.Sam2HieraDetConfig(
                hidden_size=8,
                image_size=[64, 64],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64],
                num_attention_heads_per_stage=[1, 2, 4, 8],
                window_size_per_stage=[8, 4, 4, 4],
                window_positional_embedding_background_size=[2, 2],
                global_attention_blocks=[3],
            )
        ),
        lambda: pixels(64),
    ),
    "pvt": (
        lambda: tf.PvtModel(
            tf.PvtConfig(
                image_size=32,
                num_encoder_blocks=2,
                depths=[1, 2],
                sequence_reduction_ratios=[2, 1],
                hidden_sizes=[8, 16],
                patch_sizes=[4, 2],
                strides=[4, 2],
                num_attention_heads=[1, 2],
                mlp_ratios=[2, 2],
            )
        ),
        lambda: pixels(32),
    ),
    "segformer": (
        lambda: tf.SegformerModel(
            tf.SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 2],
                sr_ratios=[2, 1],
                hidden_sizes=[8, 16],
                patch_sizes=[7, 3],
                strides=[4, 2],
                num_attention_heads=[1, 2],
                mlp_ratios=[2, 2],
            )
        ),
        lambda: pixels(32),
    ),
    "bert": (lambda: tf.BertModel(tf.BertConfig(**TEXT)), words),
    "roberta": (lambda: tf.RobertaModel(tf.RobertaConfig(**TEXT)), words),
    "electra": (lambda: tf.ElectraModel(tf.ElectraConfig(**TEXT, embedding_size=16)), words),
    "distilbert": (
        lambda: tf.DistilBertModel(
            tf.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24, pad_token_id=0)
        ),
        words,
    ),
    "deberta_v2": (lambda: tf.DebertaV2Model(tf.DebertaV2Config(**TEXT)), words),
    "modernbert": (
        lambda: tf.ModernBertModel(
            tf.ModernBertConfig(
                **TEXT, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=4
            )
        ),
        words,
    ),
    "t5_encoder": (
        lambda: tf.T5EncoderModel(
            tf.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=0)
        ),
        words,
    ),
    "ast": (
        lambda: tf.ASTModel(
            tf.ASTConfig(
                **COMMON, patch_size=8, num_mel_bins=16, max_length=24, frequency_stride=8, time_stride=8
            )
        ),
        lambda: {"input_values": torch.randn(2, 24, 16)},
    ),
    "whisper": (
        lambda: (
            tf.WhisperModel(
                tf.WhisperConfig(
                    vocab_size=50,
                    d_model=16,
                    encoder_layers=2,
                    encoder_attention_heads=2,
                    encoder_ffn_dim=24,
                    decoder_layers=1,
                    decoder_attention_heads=2,
                    decoder_ffn_dim=24,
                    num_mel_bins=8,
                    max_source_positions=10,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                    decoder_start_token_id=1,
                )
            ).encoder
        ),
        lambda: {"input_features": torch.randn(2, 8, 20)},
    ),
    "wav2vec2": (
        lambda: tf.Wav2Vec2Model(
            tf.Wav2Vec2Config(
                **COMMON,
                vocab_size=50,
                conv_dim=(16, 16),
                conv_stride=(4, 4),
                conv_kernel=(8, 4),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
            )
        ),
        lambda: {
            "input_values": torch.randn(2, 160),
            "attention_mask": (torch.arange(160) < torch.tensor([[160], [90]])).long(),
        },
    ),
    "clap_audio": (
        lambda: tf.ClapAudioModel(
            tf.ClapAudioConfig(
                window_size=4,
                num_mel_bins=16,
                spec_size=64,
                patch_size=4,
                patch_stride=[4, 4],
                hidden_size=32,
                patch_embeds_hidden_size=8,
                depths=[1, 1, 2],
                num_attention_heads=[1, 2, 4],
                num_hidden_layers=3,
                enable_fusion=False,
            )
        ),
        lambda: {"input_features": torch.randn(2, 1, 64, 16)},
    ),
    "videomae": (
        lambda: tf.VideoMAEModel(tf.VideoMAEConfig(**IMAGE, num_frames=4)),
        lambda: {"pixel_values": torch.randn(2, 4, 3, 16, 16)},
    ),
    "plain_encoder": (lambda: Plain("encoder"), lambda: {"x": torch.randn(2, 5, 16)}),
    "plain_mlp": (lambda: Plain("mlp"), lambda: {"x": torch.randn(2, 5, 16)}),
}


class MeanHead(nn.Module):
    """Every stream's states, each weighted by its place, added up: reaches all, with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, states: dict[str, Tensor], masks: dict[str, Tensor | None]) -> Tensor:
        scores = [
            (x.flatten(1) * torch.linspace(-1, 1, x[0].numel())).mean(1) for _, x in sorted(states.items())
        ]
        return self.scale * torch.stack(scores, -1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.sum(-1) - labels).square().mean()


def build(family: str) -> MultimodalModel:
    """The family's tower beside a tiny BERT, always with the same random weights."""
    torch.manual_seed(1)
    return MultimodalModel({"family": FAMILIES[family][0](), "other": FAMILIES["bert"][0]()}, MeanHead())


def inputs(family: str) -> dict:
    torch.manual_seed(2)
    return {"family": FAMILIES[family][1](), "other": words(), "labels": torch.tensor([1.0, -1.0])}


@torch.no_grad()  # as in use; torch's own encoder layer has another kernel for it
def answer(model: nn.Module, batch: dict) -> Tensor:
    return model.eval()(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_disabled_is_the_frozen_model_and_every_adapter_learns_and_comes_back(family, tmp_path):
    batch = inputs(family)
    frozen = build(family)
    expected = answer(frozen, batch)
    model = hmmoe.get_peft_model(build(family), HMMoEConfig(rank=8, modules_to_save=["head"]))
    torch.testing.assert_close(answer(model, batch), expected, rtol=0, atol=0)

    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-2)
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model(**batch).loss.backward()
    dead = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not dead
    optimizer.step()

    learned = answer(model, batch)
    assert not torch.equal(learned, expected)
    with model.disable_adapter():
        torch.testing.assert_close(answer(model, batch), expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(build(family), tmp_path)
    torch.testing.assert_close(answer(again, batch), learned, rtol=0, atol=0)


@pytest.mark.parametrize("family", [f for f, (_, make) in FAMILIES.items() if "attention_mask" in make()])
def test_what_stands_in_padding_reaches_no_stream(family):
    model = wake(hmmoe.get_peft_model(build(family), HMMoEConfig(rank=8)), 0.5).eval()
    batch = inputs(family)

    def other(change_real: bool) -> Tensor:
        given = dict(batch["family"])
        kept = given["attention_mask"].bool() ^ change_real
        for name in {"input_ids", "input_values"} & set(given):
            x = given[name]
            given[name] = torch.where(kept, x, x.new_full((), 7) if name == "input_ids" else 3 - x)
        with torch.no_grad():
            return model(family=given, other=batch["other"], output_states=True).states["other"]

    with torch.no_grad():
        expected = model(**batch, output_states=True).states["other"]
    torch.testing.assert_close(other(False), expected, rtol=0, atol=0)
    assert not torch.equal(other(True), expected)


def test_frames_meet_the_segment_of_sound_of_their_own_time():
    torch.manual_seed(1)
    towers = {"video": FAMILIES["vit"][0](), "audio": FAMILIES["ast"][0]()}
    model = MultimodalModel(towers, MeanHead(), folded=["video", "audio"])
    model = hmmoe.get_peft_model(model, HMMoEConfig(rank=8, sample_context=False, modules_to_save=["head"]))
    frames, sound = torch.randn(2, 4, 3, 16, 16), torch.randn(2, 2, 24, 16)

    def run(sound: Tensor) -> hmmoe.MultimodalOutput:
        return model(
            video={"pixel_values": frames},
            audio={"input_values": sound},
            labels=torch.tensor([1.0, -1.0]),
            output_states=True,
        )

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        run(sound).loss.backward()
        optimizer.step()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    wake(model, 0.5).eval()
    with torch.no_grad():
        before = run(sound).states["video"]  # (B, T, N, D)
        later = torch.cat([sound[:, :1], torch.randn_like(sound[:, 1:])], 1)
        after = run(later).states["video"]
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.isclose(after[:, 2:], before[:, 2:]).flatten(2).all(-1).any()


def test_vilt_meets_itself_within_one_sequence(tmp_path):
    def vilt() -> nn.Module:
        torch.manual_seed(1)
        config = tf.ViltConfig(
            **TEXT, image_size=16, patch_size=8, num_channels=3, id2label={0: "no", 1: "yes"}
        )
        return tf.ViltForQuestionAnswering(config).eval()

    torch.manual_seed(2)
    batch = {**words(), **pixels(), "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    config = HMMoEConfig(
        rank=8,
        spans={"text": [0, "input_ids"], "image": ["input_ids", None]},
        points=[
            {"text": 0, "image": 0}
        ],  # the head reads a text token: nothing behind the last block sees the image
        modules_to_save=["classifier"],
    )
    expected = vilt()(**batch).logits
    model = hmmoe.get_peft_model(vilt(), config)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert model.routing()[0]["text"].shape == (2, 6)
    learned = model(**batch).logits
    with model.disable_adapter():
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(vilt(), tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, learned, rtol=0, atol=0)


class ByHand(nn.Module):
    """The oracle: CLIP's two towers written out, embeddings to final norm, meeting after every block."""

    def __init__(self, vision: tf.CLIPVisionModel, text: tf.CLIPTextModel, layers: list[nn.Module]) -> None:
        super().__init__()
        self.vision, self.text, self.layers = vision, text, layers

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.vision.pre_layrnorm(self.vision.embeddings(pixel_values))
        y = self.text.embeddings(input_ids)
        causal = torch.full((y.shape[1],) * 2, float("-inf"), dtype=y.dtype).triu(1)[None, None]
        for image, words_, layer in zip(
            self.vision.encoder.layers, self.text.encoder.layers, self.layers, strict=True
        ):
            x = image.base_layer(x, attention_mask=None)
            y = words_.base_layer(y, attention_mask=causal)
            updates, _ = layer({"image": x, "text": y})
            x, y = x + updates["image"], y + updates["text"]
        return x, self.text.final_layer_norm(y)


def test_clip_equals_a_hand_written_composition_in_outputs_and_gradients():
    vision, text = FAMILIES["clip_vision"][0](), FAMILIES["clip_text"][0]()
    model = hmmoe.get_peft_model(
        MultimodalModel({"image": vision, "text": text}, MeanHead()).double(), HMMoEConfig(rank=3)
    ).eval()
    blocks = [b for b in vision.encoder.layers]
    layers = [b.hmmoe_layers["default"] for b in blocks]
    trained = [p for layer in layers for p in layer.parameters()]
    with torch.no_grad():
        for p in trained:
            p.add_(torch.randn_like(p) / 10)
    pixel_values, input_ids = pixels()["pixel_values"].double(), words()["input_ids"]
    states = model(
        image={"pixel_values": pixel_values}, text={"input_ids": input_ids}, output_states=True
    ).states
    ours = torch.autograd.grad(sum(s.square().sum() for s in states.values()), trained)
    expected = ByHand(vision, text, layers)(pixel_values, input_ids)
    torch.testing.assert_close(states["image"], expected[0])
    torch.testing.assert_close(states["text"], expected[1])
    theirs = torch.autograd.grad(sum(s.square().sum() for s in expected), trained)
    torch.testing.assert_close(ours, theirs)
