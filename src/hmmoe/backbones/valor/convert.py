"""Official VALOR checkpoints into `ValorModel`: `ckpt/model_step_N.pt` with `log/hps.json`, or a state dict.

    clip_model.visual.*                  ─► video.clip.*      fused q, k, v split, places resized bilinearly
    video_encoder.*                      ─► video.*           (VALOR-B)
    audio_embeddings.*, audio_encoder.*  ─► audio.*
    multimodal_encoder.*                 ─► text.*            prompt_embedding becomes token type 2
    txt_encoder.*, cls.decoder.weight    ─► copies of the above, checked and dropped

Every key of the checkpoint ends up in the model or in the `Conversion` report, and so does every weight of
the model that the checkpoint does not hold. A checkpoint of another size or family is refused with the first
key that differs.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig

from .configuration import ValorAudioConfig, ValorConfig, ValorTextConfig, VideoSwinConfig
from .modeling import ValorModel

logger = logging.getLogger(__name__)

HEAD_WIDTH = 64  # of every attention head in CLIP, BERT and the audio encoder
TYPES = "text.embeddings.token_type_embeddings.weight"
PROMPT_KEY = "multimodal_encoder.embeddings.prompt_embedding.weight"
COUNTS = ("video_sample_num", "audio_sample_num")  # of pre-training, in hps.json
STEP = r"model_step_(\d+)"  # beside it lies optimizer_step_N
HPS = ("use_task_prompt", *COUNTS)
FRAME_KEYS = {"clip": "clip_model.visual.", "swin": "video_encoder."}

# official name -> ours; every rule that fits is applied, in this order: prefixes, then parts of a layer
RULES = [
    (r"clip_model\.visual\.class_embedding", r"video.clip.embeddings.class_embedding"),
    (r"clip_model\.visual\.positional_embedding", r"video.clip.embeddings.position_embedding.weight"),
    (r"clip_model\.visual\.conv1\.(.+)", r"video.clip.embeddings.patch_embedding.\1"),
    (r"clip_model\.visual\.ln_pre\.(.+)", r"video.clip.pre_layrnorm.\1"),
    (r"clip_model\.visual\.ln_post\.(.+)", r"video.clip.post_layernorm.\1"),
    (r"clip_model\.visual\.transformer\.resblocks\.(\d+)\.(.+)", r"video.clip.encoder.layers.\1.\2"),
    (r"(.+)\.attn\.in_proj_(weight|bias)", r"\1.self_attn.in_proj.\2"),
    (r"(video\.clip.+)\.attn\.out_proj\.(.+)", r"\1.self_attn.out_proj.\2"),
    (r"(video\.clip.+)\.ln_([12])\.(.+)", r"\1.layer_norm\2.\3"),
    (r"(video\.clip.+)\.mlp\.c_fc\.(.+)", r"\1.mlp.fc1.\2"),
    (r"(video\.clip.+)\.mlp\.c_proj\.(.+)", r"\1.mlp.fc2.\2"),
    (r"clip_model\.logit_scale", r"align.logit_scale"),
    (r"video_encoder\.(.+)", r"video.\1"),
    (r"audio_embeddings\.(.+)", r"audio.embeddings.\1"),
    (r"audio_encoder\.last_layernorm\.(.+)", r"audio.last_layernorm.\1"),
    (r"audio_encoder\.layer\.(\d+)\.(.+)", r"audio.layers.\1.\2"),
    (r"(audio\.layers.+)\.linears\.0\.(.+)", r"\1.q_proj.\2"),
    (r"(audio\.layers.+)\.linears\.1\.(.+)", r"\1.k_proj.\2"),
    (r"(audio\.layers.+)\.linears\.2\.(.+)", r"\1.v_proj.\2"),
    (r"(audio\.layers.+)\.linears\.3\.(.+)", r"\1.o_proj.\2"),
    (r"(audio\.layers.+)\.ff_layer\.linear([12])\.(.+)", r"\1.mlp.fc\2.\3"),
    (r"(audio\.layers.+)\.layernorm1\.(.+)", r"\1.layernorm_before.\2"),
    (r"(audio\.layers.+)\.layernorm2\.(.+)", r"\1.layernorm_after.\2"),
    (r"multimodal_encoder\.embeddings\.prompt_embedding\.weight", r"text.prompt"),
    (r"multimodal_encoder\.(embeddings|encoder)\.(.+)", r"text.\1.\2"),
    (r"(text\..+)\.cross_attn\.cross\.(.+)", r"\1.crossattention.self.\2"),
    (r"(text\..+)\.cross_attn\.output\.(.+)", r"\1.crossattention.output.\2"),
    (r"hidden_trans_(video|audio)_multimodal\.(.+)", r"\1_memory.project.\2"),
    (r"(video|audio)_frame_embedding", r"\1_memory.frame_embedding"),
    (r"(video|audio)_type_embeddings", r"\1_memory.type_embedding"),
    (r"contra_head_([tva])\.linear\.(.+)", r"align.contra_head_\1.\2"),
    (r"((?:text|video|audio)_fine_weight\..+|contra_temp)", r"align.\1"),
    (r"(cls\..+)", r"\1"),
]
# in official checkpoints, but no weight of ours: indices, and parts that VALOR with BERT does not run
SPARE = re.compile(
    r"clip_model\.(?!visual\.|logit_scale).+|clip_model\.visual\.proj"
    r"|.*relative_position_index|.*\.position_ids"
    r"|multimodal_encoder\.pooler\..+|contra_temp|txt_encoder\..+"
)
# weights that a checkpoint may lack; whatever else is missing means another family or size
OPTIONAL = re.compile(r"align\.|cls\.|(video|audio)_memory")


@dataclass
class Conversion:
    """What became of every key.

    used: keys of the checkpoint that fill the model.
    copies: keys equal to another one that fills it.
    unused: keys that nothing in the model reads.
    missing: weights of the model that start at random (the prompt's token type: as that of plain text).
    filled: tables whose rows beyond the trained ones repeat the last trained one.
    """

    used: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(keys)} {name}" for name, keys in vars(self).items()]
        lists = [
            f"\n  {name}: {', '.join(keys)}" for name, keys in vars(self).items() if keys and name != "used"
        ]
        return f"VALOR checkpoint: {', '.join(parts)}" + "".join(lists)

    def log(self) -> None:
        """Every key to the log; a warning for weights that the checkpoint does not hold."""
        logger.info("%s", self)
        if self.missing:
            logger.warning("not in the checkpoint, so not trained: %s", ", ".join(self.missing))


def rename(key: str) -> str:
    """Our name of an official key; the key itself where no rule knows it."""
    for pattern, ours in RULES:
        if match := re.fullmatch(pattern, key):
            key = match.expand(ours)
    return key


def convert_state_dict(
    state: Mapping[str, Tensor],
    config: ValorConfig,
    *,
    trained_frames: int | None = None,
    trained_clips: int | None = None,
) -> tuple[dict[str, Tensor], Conversion]:
    """Weights under our names, and the report.

    Args:
        state: an official state dict, with or without `module.` before the keys.
        config: the sizes that the weights must have.
        trained_frames: frames per video in pre-training; later rows of the frame table repeat the last
            trained one.
        trained_clips: the same for audio clips.

    Raises:
        ValueError: if the checkpoint is of another family or size, naming the first key that differs, or if
            the copies it holds of one weight are not equal.
    """
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in ValorModel(config).state_dict().items()}
    state = {key.removeprefix("module."): weight for key, weight in state.items()}
    _check_family(state, config)
    report, ours = Conversion(), {}
    for key, weight in state.items():
        name = rename(key)
        if key.startswith("txt_encoder.") and (twin := key.replace("txt_", "multimodal_", 1)) in state:
            _check_copy(key, weight, twin, state[twin])
            report.copies.append(key)
        elif name == "cls.decoder.weight":
            twin = "multimodal_encoder.embeddings.word_embeddings.weight"
            _check_copy(key, weight, twin, state.get(twin, weight))
            report.copies.append(key)
        elif name not in shapes and (SPARE.fullmatch(key) or name == key):
            report.unused.append(key)
        else:
            for part, value in _parts(name, weight, state, shapes):
                ours[part] = _fit(key, part, value, shapes)
            report.used.append(key)
    _fill(ours, "video_memory.frame_embedding", trained_frames, report)
    _fill(ours, "audio_memory.frame_embedding", trained_clips, report)
    report.missing = sorted(shapes.keys() - ours.keys() - {"cls.decoder.weight"})
    if PROMPT_KEY not in state:
        report.missing.append(f"{TYPES}[2]")
    for name in shapes:
        if name in report.missing and not OPTIONAL.match(name):
            raise ValueError(
                f"the checkpoint is of another size or family than the config: nothing in it fills {name!r}"
            )
    return ours, report


def _check_family(state: Mapping[str, Tensor], config: ValorConfig) -> None:
    wanted = "clip" if config.clip_frames else "swin"
    if not any(key.startswith(FRAME_KEYS[wanted]) for key in state):
        other = next((key for key in state if key.startswith(tuple(FRAME_KEYS.values()))), None)
        first = other or next(iter(state), None)
        raise ValueError(
            f"not a VALOR checkpoint with {wanted} frames: no key begins with {FRAME_KEYS[wanted]!r}, "
            f"the first key that differs is {first!r}"
        )


def _check_copy(key: str, weight: Tensor, twin: str, other: Tensor) -> None:
    if not torch.equal(weight, other):
        raise ValueError(f"{key!r} and {twin!r} differ, but VALOR shares this weight: not a VALOR checkpoint")


def _parts(
    name: str, weight: Tensor, state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> list[tuple[str, Tensor]]:
    """The weights of ours that one official weight holds."""
    if ".self_attn.in_proj." in name:
        return [
            (name.replace("in_proj", f"{letter}_proj"), part)
            for letter, part in zip("qkv", weight.chunk(3), strict=True)
        ]
    if name == TYPES:
        # without an embedding of their own, prompts count as plain text
        return [(TYPES, torch.cat([weight, state.get(PROMPT_KEY, weight[:1])]))]
    if name == "text.prompt":
        return []
    if name == "video.clip.embeddings.position_embedding.weight" and name in shapes:
        return [(name, resize_places(weight, shapes[name][0]))]
    return [(name, weight)]


def _fit(key: str, name: str, weight: Tensor, shapes: Mapping[str, torch.Size]) -> Tensor:
    shape = shapes.get(name)
    # the axes of length one differ between writings of a bias or a class token
    if shape is None or [n for n in weight.shape if n > 1] != [n for n in shape if n > 1]:
        here = "has no such weight" if shape is None else f"has shape {tuple(shape)} there"
        raise ValueError(
            "the checkpoint is of another size or family than the config: the first key that differs is "
            f"{key!r} of shape {tuple(weight.shape)}, the model {here} ({name!r})"
        )
    return weight.reshape(shape).float().contiguous()


def resize_places(table: Tensor, rows: int) -> Tensor:
    """CLIP's places for another image size, bilinear: (1 + n², D) -> (rows, D), the class token's kept."""
    old, new = round((len(table) - 1) ** 0.5), round((rows - 1) ** 0.5)
    if old == new or old * old != len(table) - 1 or new * new != rows - 1:
        return table
    places = table[1:].float().T.reshape(1, -1, old, old)
    places = F.interpolate(places, size=(new, new), mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), places.flatten(2)[0].T])


def _fill(ours: dict[str, Tensor], name: str, trained: int | None, report: Conversion) -> None:
    if trained is None or name not in ours or trained >= ours[name].shape[1]:
        return
    if trained < 1:
        raise ValueError(
            f"{trained} trained rows of {name!r}: give the number of samples in pre-training, at least 1"
        )
    ours[name] = ours[name].clone()
    ours[name][:, trained:] = ours[name][:, trained - 1 : trained]
    report.filled.append(name)


def config_from_state_dict(state: Mapping[str, Tensor], **options: Any) -> ValorConfig:
    """The sizes that an official state dict has, read from the shapes of its weights.

    Attention heads are 64 wide everywhere except in VideoSwin, whose bias tables tell their number. CLIP's
    image size is 224, what VALOR-L runs at, or smaller where there are fewer places.

    Args:
        options: other fields of `ValorConfig`, e.g. `use_task_prompt`.

    Raises:
        ValueError: if a key from which a size is read is missing.
    """
    state = {key.removeprefix("module."): weight for key, weight in state.items()}

    def shape(key: str) -> torch.Size:
        if key not in state:
            raise ValueError(
                f"not a VALOR checkpoint: the first key that differs is {key!r}, which it does not hold"
            )
        return state[key].shape

    def depth(prefix: str) -> int:
        found = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in state]
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    if any(key.startswith(FRAME_KEYS["swin"]) for key in state):
        stages = range(depth("video_encoder.layers."))
        tables = [
            shape(f"video_encoder.layers.{i}.blocks.0.attn.relative_position_bias_table") for i in stages
        ]
        patch = shape("video_encoder.patch_embed.proj.weight")
        vision: Any = VideoSwinConfig(
            embed_dim=patch[0],
            depths=[depth(f"video_encoder.layers.{i}.blocks.") for i in stages],
            num_heads=[table[1] for table in tables],
            patch=list(patch[2:]),
        )
    else:
        width, _, patch_size, _ = shape("clip_model.visual.conv1.weight")
        side = round((shape("clip_model.visual.positional_embedding")[0] - 1) ** 0.5)
        vision = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=shape("clip_model.visual.transformer.resblocks.0.mlp.c_fc.weight")[0],
            num_hidden_layers=depth("clip_model.visual.transformer.resblocks."),
            num_attention_heads=max(1, width // HEAD_WIDTH),
            patch_size=patch_size,
            image_size=min(224, side * patch_size),
        )
    audio_width = shape("audio_embeddings.first_conv.weight")[0]
    audio = ValorAudioConfig(
        hidden_size=audio_width,
        intermediate_size=shape("audio_encoder.layer.0.ff_layer.linear1.weight")[0],
        num_hidden_layers=depth("audio_encoder.layer."),
        num_attention_heads=max(1, audio_width // HEAD_WIDTH),
    )
    words, text_width = shape("multimodal_encoder.embeddings.word_embeddings.weight")
    text = ValorTextConfig(
        vocab_size=words,
        hidden_size=text_width,
        intermediate_size=shape("multimodal_encoder.encoder.layer.0.intermediate.dense.weight")[0],
        num_hidden_layers=depth("multimodal_encoder.encoder.layer."),
        num_attention_heads=max(1, text_width // HEAD_WIDTH),
        max_position_embeddings=shape("multimodal_encoder.embeddings.position_embeddings.weight")[0],
    )
    sizes = {
        "contra_dim": shape("contra_head_t.linear.weight")[0],
        "max_frames": shape("video_frame_embedding")[1],
        "max_clips": shape("audio_frame_embedding")[1],
    }
    return ValorConfig(vision_config=vision, audio_config=audio, text_config=text, **{**sizes, **options})


def read_hps(path: Path) -> dict[str, Any]:
    """Values of `log/hps.json` that matter here.

    The run's own values stand at the top; below, each of its data sets has its sample counts, of which the
    top holds the largest. A value that is only below counts where all data sets agree.

    Returns:
        use_task_prompt, video_sample_num and audio_sample_num, each where the file tells it.
    """
    hps = json.loads(path.read_text())
    found: dict[str, set[Any]] = {name: set() for name in HPS}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            for name, value in node.items():
                if name in HPS and not isinstance(value, dict | list):
                    found[name].add(value)
                walk(value)

    walk(hps)
    agreed = {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
    return agreed | {name: hps[name] for name in HPS if name in hps}


def load_checkpoint(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and hps of `path`: a `.pt` or `.safetensors` file, or the folder with `ckpt/` and `log/`.

    Sample counts only come with a `model_step_N`, from which training goes on; any other file, such as the
    `best_….pt` of a fine-tuned model, has its frame table as it is used.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if the file is not a flat state dict that loads without running code.
    """
    path = Path(path)
    file, root = path, path.parent.parent
    if path.is_dir():
        steps = {int(found[1]): p for p in path.glob("ckpt/*.pt") if (found := re.fullmatch(STEP, p.stem))}
        if not steps:
            raise FileNotFoundError(
                f"{path} holds no ckpt/model_step_N.pt: give a VALOR folder or a checkpoint file"
            )
        file, root = steps[max(steps)], path
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint {file}: give a VALOR folder or a checkpoint file")
    if file.suffix == ".safetensors":
        state = load_file(file)
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{file} is no state dict that loads with weights_only=True: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} is not a flat state dict of tensors, which VALOR checkpoints are")
    log = root / "log" / "hps.json"
    hps = read_hps(log) if log.is_file() else {}
    if not re.fullmatch(STEP, file.stem):
        hps = {name: value for name, value in hps.items() if name not in COUNTS}
    return state, hps


def read_official(
    source: str | PathLike[str] | Mapping[str, Tensor],
    config: ValorConfig | None,
    trained_frames: int | None,
    trained_clips: int | None,
) -> tuple[ValorConfig, dict[str, Tensor], Conversion]:
    """Config, weights under our names, and report; arguments as in `ValorModel.from_official`."""
    hps: dict[str, Any] = {}
    if isinstance(source, Mapping):
        state = source
    else:
        state, hps = load_checkpoint(source)
    if config is None:
        options = {"use_task_prompt": bool(hps["use_task_prompt"])} if "use_task_prompt" in hps else {}
        config = config_from_state_dict(state, **options)
    weights, report = convert_state_dict(
        state,
        config,
        trained_frames=trained_frames if trained_frames is not None else hps.get("video_sample_num"),
        trained_clips=trained_clips if trained_clips is not None else hps.get("audio_sample_num"),
    )
    return config, weights, report
