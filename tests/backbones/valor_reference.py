"""VALOR computed straight from an official state dict, in plain tensor operations with official keys.

Written from the architecture alone and sharing no code with the product, so that a slip in one shows against
the other. Slow and for small sizes.
"""

import itertools
import math

import torch
import torch.nn.functional as F

from hmmoe.backbones.valor import ValorAudioConfig, ValorConfig, ValorTextConfig, VideoSwinConfig

TEXT = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
AUDIO = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
SWIN = {"embed_dim": 8, "depths": [2, 3], "num_heads": [1, 2], "window": [4, 3, 3]}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 8,
    "image_size": 32,
}


def small_config(frames: str = "clip", **options) -> ValorConfig:
    vision = CLIP if frames == "clip" else VideoSwinConfig(**SWIN)
    audio = ValorAudioConfig(num_mel_bins=32, max_length=48, **AUDIO)
    text = ValorTextConfig(
        num_attention_heads=3,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **TEXT,
    )
    sizes = {"contra_dim": 12, "max_frames": 6, "max_clips": 4, **options}
    return ValorConfig(vision_config=vision, audio_config=audio, text_config=text, **sizes)


def official_shapes(config: ValorConfig) -> dict[str, tuple[int, ...]]:
    """Every key of an official checkpoint of these sizes."""
    text, audio, vision = config.text_config, config.audio_config, config.vision_config
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name, out, inp, bias=True):
        shapes[f"{name}.weight"] = (out, inp)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    if config.clip_frames:
        d, p, v = vision.hidden_size, vision.patch_size, "clip_model.visual"
        places = (vision.image_size // p) ** 2 + 1
        shapes |= {
            f"{v}.class_embedding": (d,),
            f"{v}.positional_embedding": (places, d),
            f"{v}.proj": (d, 20),
            f"{v}.conv1.weight": (d, 3, p, p),
            "clip_model.logit_scale": (),
            "clip_model.transformer.resblocks.0.ln_1.weight": (16,),
        }
        norm(f"{v}.ln_pre", d)
        norm(f"{v}.ln_post", d)
        for i in range(vision.num_hidden_layers):
            block = f"{v}.transformer.resblocks.{i}"
            norm(f"{block}.ln_1", d)
            norm(f"{block}.ln_2", d)
            shapes[f"{block}.attn.in_proj_weight"] = (3 * d, d)
            shapes[f"{block}.attn.in_proj_bias"] = (3 * d,)
            linear(f"{block}.attn.out_proj", d, d)
            linear(f"{block}.mlp.c_fc", vision.intermediate_size, d)
            linear(f"{block}.mlp.c_proj", d, vision.intermediate_size)
    else:
        d, v = vision.embed_dim, "video_encoder"
        shapes[f"{v}.patch_embed.proj.weight"] = (d, 3, *vision.patch)
        shapes[f"{v}.patch_embed.proj.bias"] = (d,)
        norm(f"{v}.patch_embed.norm", d)
        t, h, w = vision.window
        for i, (depth, heads) in enumerate(zip(vision.depths, vision.num_heads, strict=True)):
            for j in range(depth):
                block = f"{v}.layers.{i}.blocks.{j}"
                norm(f"{block}.norm1", d)
                norm(f"{block}.norm2", d)
                shapes[f"{block}.attn.relative_position_bias_table"] = (
                    (2 * t - 1) * (2 * h - 1) * (2 * w - 1),
                    heads,
                )
                shapes[f"{block}.attn.relative_position_index"] = (t * h * w, t * h * w)
                linear(f"{block}.attn.qkv", 3 * d, d)
                linear(f"{block}.attn.proj", d, d)
                linear(f"{block}.mlp.fc1", 4 * d, d)
                linear(f"{block}.mlp.fc2", d, 4 * d)
            if i < len(vision.depths) - 1:
                norm(f"{v}.layers.{i}.downsample.norm", 4 * d)
                linear(f"{v}.layers.{i}.downsample.reduction", 2 * d, 4 * d, bias=False)
                d *= 2
        norm(f"{v}.norm", d)
    shapes["contra_temp"] = ()
    a, rows, columns = audio.hidden_size, audio.num_mel_bins // 16, audio.max_length // 16
    shapes["audio_embeddings.cls_token"] = (1, 1, a)
    shapes["audio_embeddings.position_embeddings.weight"] = (1 + rows * columns, a)
    shapes["audio_embeddings.first_conv.weight"] = (a, 1, 16, 16)
    shapes["audio_embeddings.first_conv.bias"] = (a,)
    for i in range(audio.num_hidden_layers):
        layer = f"audio_encoder.layer.{i}"
        for n in range(4):
            linear(f"{layer}.attention.linears.{n}", a, a)
        linear(f"{layer}.ff_layer.linear1", audio.intermediate_size, a)
        linear(f"{layer}.ff_layer.linear2", a, audio.intermediate_size)
        norm(f"{layer}.layernorm1", a)
        norm(f"{layer}.layernorm2", a)
    norm("audio_encoder.last_layernorm", a)
    b, m = text.hidden_size, "multimodal_encoder"
    shapes[f"{m}.embeddings.word_embeddings.weight"] = (text.vocab_size, b)
    shapes[f"{m}.embeddings.position_embeddings.weight"] = (text.max_position_embeddings, b)
    shapes[f"{m}.embeddings.token_type_embeddings.weight"] = (2, b)
    shapes[f"{m}.embeddings.prompt_embedding.weight"] = (1, b)
    norm(f"{m}.embeddings.LayerNorm", b)
    for i in range(text.num_hidden_layers):
        layer = f"{m}.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", b, b)
            linear(f"{layer}.cross_attn.cross.{part}", b, b)
        for part in ("attention.output", "cross_attn.output"):
            linear(f"{layer}.{part}.dense", b, b)
            norm(f"{layer}.{part}.LayerNorm", b)
        linear(f"{layer}.intermediate.dense", text.intermediate_size, b)
        linear(f"{layer}.output.dense", b, text.intermediate_size)
        norm(f"{layer}.output.LayerNorm", b)
    for medium, width, count in (("video", d, config.max_frames), ("audio", a, config.max_clips)):
        shapes[f"{medium}_frame_embedding"] = (1, count, b)
        shapes[f"{medium}_type_embeddings"] = (1, 1, b)
        if width != b:
            linear(f"hidden_trans_{medium}_multimodal.0", b, width)
            norm(f"hidden_trans_{medium}_multimodal.1", b)
    c = config.contra_dim
    for letter, width, medium in (("t", b, "text"), ("v", d, "video"), ("a", a, "audio")):
        linear(f"contra_head_{letter}.linear", c, width, bias=False)
        linear(f"{medium}_fine_weight.0", c, c)
        linear(f"{medium}_fine_weight.2", 1, c)
    linear("cls.dense", b, b)
    norm("cls.layernorm", b)
    linear("cls.decoder", text.vocab_size, b)
    return shapes


def official_state(config: ValorConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random official checkpoint, its copies included."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in official_shapes(config).items():
        if key.endswith("relative_position_index"):
            state[key] = torch.zeros(shape, dtype=torch.long)
        else:
            scale = 0.3 if len(shape) < 2 else 1.5 / math.sqrt(math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=g) * scale
            if "norm" in key.lower() and key.endswith("weight"):
                state[key] += 1.0
    m = "multimodal_encoder."
    state["cls.decoder.weight"] = state[m + "embeddings.word_embeddings.weight"].clone()
    for key in [key for key in state if key.startswith(m) and "cross_attn" not in key]:
        state[key.replace(m, "txt_encoder.")] = state[key].clone()
    if not config.clip_frames:
        state["contra_temp"] = torch.tensor(0.07)
    return state


class Reference:
    """Forward passes on an official state dict, in float64."""

    def __init__(self, state: dict[str, torch.Tensor], config: ValorConfig):
        self.s = {key: value.double() for key, value in state.items()}
        self.config = config

    def norm(self, x, name, eps):
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (var + eps).sqrt() * self.s[f"{name}.weight"] + self.s[f"{name}.bias"]

    def linear(self, x, name):
        y = x @ self.s[f"{name}.weight"].T
        return y + self.s[f"{name}.bias"] if f"{name}.bias" in self.s else y

    @staticmethod
    def attend(q, k, v, heads, bias=0.0):
        """q (Q, D), k and v (K, D), bias broadcast to (heads, Q, K)."""
        q, k, v = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
        return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)

    def clip_frame(self, frame):
        """(3, H, W) -> (1 + patches, D)."""
        v, cfg = "clip_model.visual", self.config.vision_config
        p, heads = cfg.patch_size, cfg.num_attention_heads
        kernel = self.s[f"{v}.conv1.weight"].flatten(1)
        rows, columns = range(0, frame.shape[1], p), range(0, frame.shape[2], p)
        patches = [
            kernel @ frame[:, r : r + p, c : c + p].flatten() for r, c in itertools.product(rows, columns)
        ]
        x = torch.stack([self.s[f"{v}.class_embedding"], *patches]) + self.s[f"{v}.positional_embedding"]
        x = self.norm(x, f"{v}.ln_pre", 1e-5)
        for i in range(cfg.num_hidden_layers):
            b = f"{v}.transformer.resblocks.{i}"
            y = self.norm(x, f"{b}.ln_1", 1e-5)
            qkv = y @ self.s[f"{b}.attn.in_proj_weight"].T + self.s[f"{b}.attn.in_proj_bias"]
            x = x + self.linear(self.attend(*qkv.chunk(3, dim=-1), heads), f"{b}.attn.out_proj")
            y = self.linear(self.norm(x, f"{b}.ln_2", 1e-5), f"{b}.mlp.c_fc")
            x = x + self.linear(y * torch.sigmoid(1.702 * y), f"{b}.mlp.c_proj")
        return self.norm(x, f"{v}.ln_post", 1e-5)

    def swin(self, frames):
        """(T, 3, H, W) -> (T, N, D): attention over all tokens, other windows shut out pair by pair."""
        v, cfg = "video_encoder", self.config.vision_config
        kt, kh, kw = cfg.patch
        T, _, H, W = frames.shape
        x = torch.zeros(T + kt - 1, 3, -(-H // kh) * kh, -(-W // kw) * kw, dtype=torch.float64)
        x[:T, :, :H, :W] = frames
        kernel, bias = self.s[f"{v}.patch_embed.proj.weight"], self.s[f"{v}.patch_embed.proj.bias"]
        h, w = x.shape[2] // kh, x.shape[3] // kw
        out = torch.zeros(T, h, w, cfg.embed_dim, dtype=torch.float64)
        for t, r, c in itertools.product(range(T), range(h), range(w)):
            cube = x[t : t + kt, :, r * kh : (r + 1) * kh, c * kw : (c + 1) * kw].transpose(0, 1)
            out[t, r, c] = kernel.flatten(1) @ cube.flatten() + bias
        x = self.norm(out, f"{v}.patch_embed.norm", 1e-5)
        for i, depth in enumerate(cfg.depths):
            for j in range(depth):
                b = f"{v}.layers.{i}.blocks.{j}"
                x = x + self.swin_attention(self.norm(x, f"{b}.norm1", 1e-5), b, cfg.num_heads[i], j % 2 == 1)
                y = self.linear(self.norm(x, f"{b}.norm2", 1e-5), f"{b}.mlp.fc1")
                x = x + self.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{b}.mlp.fc2")
            if i < len(cfg.depths) - 1:
                T, h, w, C = x.shape
                merged = torch.zeros(T, -(-h // 2), -(-w // 2), 4 * C, dtype=torch.float64)
                for r, c in itertools.product(range(h), range(w)):
                    corner = (r % 2) + 2 * (c % 2)
                    merged[:, r // 2, c // 2, corner * C : (corner + 1) * C] = x[:, r, c]
                d = f"{v}.layers.{i}.downsample"
                x = self.linear(self.norm(merged, f"{d}.norm", 1e-5), f"{d}.reduction")
        return self.norm(x, f"{v}.norm", 1e-5).flatten(1, 2)

    def swin_attention(self, x, block, heads, shifted):
        full = self.config.vision_config.window
        size = x.shape[:3]
        window = [min(n, w) for n, w in zip(size, full, strict=True)]
        shift = [w // 2 if shifted and n > w else 0 for n, w in zip(size, full, strict=True)]
        padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
        y = torch.zeros(*padded, x.shape[3], dtype=torch.float64)
        y[: size[0], : size[1], : size[2]] = x
        places = list(itertools.product(*map(range, padded)))
        moved = [[(p - s) % n for p, s, n in zip(place, shift, padded, strict=True)] for place in places]
        wrapped = [[p < s for p, s in zip(place, shift, strict=True)] for place in places]
        table = self.s[f"{block}.attn.relative_position_bias_table"]
        bias = torch.full((heads, len(places), len(places)), -math.inf, dtype=torch.float64)
        for m, n in itertools.product(range(len(places)), repeat=2):
            if any(a // w != b // w for a, b, w in zip(moved[m], moved[n], window, strict=True)):
                continue
            row = 0
            for a, b, w in zip(moved[m], moved[n], full, strict=True):
                row = row * (2 * w - 1) + (a - b) + w - 1
            bias[:, m, n] = table[row] - (100.0 if wrapped[m] != wrapped[n] else 0.0)
        q, k, v = self.linear(y.flatten(0, 2), f"{block}.attn.qkv").chunk(3, dim=-1)
        out = self.linear(self.attend(q, k, v, heads, bias), f"{block}.attn.proj")
        return out.view(*padded, -1)[: size[0], : size[1], : size[2]]

    def video(self, frames):
        """(T, 3, H, W) -> (T, N, D)."""
        return (
            torch.stack([self.clip_frame(f) for f in frames])
            if self.config.clip_frames
            else self.swin(frames)
        )

    def audio(self, clip):
        """(bands, steps) -> (1 + patches, D)."""
        cfg, e = self.config.audio_config, "audio_embeddings"
        kernel = self.s[f"{e}.first_conv.weight"].flatten(1)
        corners = itertools.product(range(0, clip.shape[0], 16), range(0, clip.shape[1], 16))
        patches = [
            kernel @ clip[r : r + 16, c : c + 16].flatten() + self.s[f"{e}.first_conv.bias"]
            for r, c in corners
        ]
        x = torch.stack([self.s[f"{e}.cls_token"][0, 0], *patches])
        x = x + self.s[f"{e}.position_embeddings.weight"]
        for i in range(cfg.num_hidden_layers):
            b = f"audio_encoder.layer.{i}"
            y = self.norm(x, f"{b}.layernorm1", 1e-12)
            qkv = [self.linear(y, f"{b}.attention.linears.{n}") for n in range(3)]
            x = x + self.linear(self.attend(*qkv, cfg.num_attention_heads), f"{b}.attention.linears.3")
            y = self.linear(self.norm(x, f"{b}.layernorm2", 1e-12), f"{b}.ff_layer.linear1")
            x = x + self.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{b}.ff_layer.linear2")
        return self.norm(x, "audio_encoder.last_layernorm", 1e-12)

    def memory(self, states, medium):
        """(T, N, D) -> (T·N, text width)."""
        name = f"hidden_trans_{medium}_multimodal"
        if f"{name}.0.weight" in self.s:
            states = self.norm(self.linear(states, f"{name}.0"), f"{name}.1", 1e-12)
        frames = self.s[f"{medium}_frame_embedding"][0, : len(states), None]
        return (states + frames + self.s[f"{medium}_type_embeddings"]).flatten(0, 1)

    def text(self, ids, prompt=(), causal=False, memory=None, real=None):
        """Word ids of one text (and its prompt) -> (L, D); `real` says which words may be seen."""
        cfg, m = self.config.text_config, "multimodal_encoder"
        P, L = len(prompt), len(ids)
        words, places, types, e = [], [], [], f"{m}.embeddings"
        for sequence, kind in (
            (prompt, self.s[f"{e}.prompt_embedding.weight"][0]),
            (ids, self.s[f"{e}.token_type_embeddings.weight"][0]),
        ):
            for place, word in enumerate(sequence):
                words.append(self.s[f"{e}.word_embeddings.weight"][word])
                places.append(self.s[f"{e}.position_embeddings.weight"][place])
                types.append(kind)
        x = self.norm(sum(torch.stack(rows) for rows in (words, places, types)), f"{e}.LayerNorm", 1e-12)
        bias = torch.zeros(P + L, P + L, dtype=torch.float64)
        for q, k in itertools.product(range(P + L), repeat=2):
            unreal = k >= P and real is not None and not real[k - P]
            ahead = causal and k >= P and (q < P or k > q)
            if unreal or ahead:
                bias[q, k] = -10000.0
        heads = cfg.num_attention_heads
        for i in range(cfg.num_hidden_layers):
            b = f"{m}.encoder.layer.{i}"
            q, k, v = (self.linear(x, f"{b}.attention.self.{n}") for n in ("query", "key", "value"))
            y = self.linear(self.attend(q, k, v, heads, bias), f"{b}.attention.output.dense")
            x = self.norm(x + y, f"{b}.attention.output.LayerNorm", 1e-12)
            if memory is not None:
                q = self.linear(x, f"{b}.cross_attn.cross.query")
                k, v = (self.linear(memory, f"{b}.cross_attn.cross.{n}") for n in ("key", "value"))
                y = self.linear(self.attend(q, k, v, heads), f"{b}.cross_attn.output.dense")
                x = self.norm(x + y, f"{b}.cross_attn.output.LayerNorm", 1e-12)
            y = F.gelu(self.linear(x, f"{b}.intermediate.dense"))
            x = self.norm(x + self.linear(y, f"{b}.output.dense"), f"{b}.output.LayerNorm", 1e-12)
        return x[P:]

    def words(self, states):
        """(L, D) -> logits (L, V)."""
        y = self.norm(F.gelu(self.linear(states, "cls.dense")), "cls.layernorm", 1e-12)
        return self.linear(y, "cls.decoder")

    def contrast(self, states, medium):
        """(N, D) -> unit vectors (N, C) and scores (N,)."""
        x = states @ self.s[f"contra_head_{medium[0]}.linear.weight"].T
        x = x / x.norm(dim=-1, keepdim=True)
        hidden = self.linear(x, f"{medium}_fine_weight.0").clamp(min=0)
        return x, self.linear(hidden, f"{medium}_fine_weight.2")[:, 0]

    def similarity(self, text, media):
        """Two pairs (vectors, scores) -> a number."""
        (t, wt), (x, wx) = text, media
        wt, wx = wt.softmax(0), wx.softmax(0)
        by_item = sum(wx[n] * max(float(x[n] @ t[m]) for m in range(len(t))) for n in range(len(x)))
        by_word = sum(wt[m] * max(float(x[n] @ t[m]) for n in range(len(x))) for m in range(len(t)))
        return float(by_item + by_word) / 2

    def temperature(self):
        if self.config.clip_frames:
            return 1 / math.exp(float(self.s["clip_model.logit_scale"]))
        return float(self.s["contra_temp"])
