"""Towers from Hugging Face checkpoints: a hub id or a local folder, safetensors only, no remote code.

One encoder comes out of whatever the checkpoint holds: a single encoder as it is, the encoder of an
encoder-decoder (Whisper, T5), or one `part` of a dual model (CLIP, SigLIP, CLAP).
"""

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as progress

from hmmoe.backbones.inputs import AudioInputs, ImageInputs, ProcessorImages, TextInputs, blank, whole
from hmmoe.backbones.tower import MODALITIES, Tower, freeze
from hmmoe.container import final_tokens
from hmmoe.errors import unknown
from hmmoe.weights import check_safetensors

PARTS = ("vision", "text", "audio")
ANY_SIZE = ("sam2_hiera_det_model",)  # vision models whose positions are interpolated to any image size
# Weights a checkpoint may lack because `last_hidden_state` does not depend on them.
UNUSED = ("pooler.", "position_ids", "masked_spec_embed", "mask_token")


def load_folder(
    name: str | Path,
    *,
    part: str | None = None,
    image_size: int | None = None,
    seconds: float | None = None,
    max_length: int | None = None,
) -> Tower:
    """The tower in a folder in Hugging Face format, or of a hub id.

    Args:
        name: the folder or the hub id.
        part: which half of a dual model: vision, text or audio.
        image_size: pixels a side, for vision models of free size; otherwise the checkpoint's own.
        seconds: length of a clip. For Whisper the position table is cut to it (50 tokens a second); models of
            no fixed length (Wav2Vec2) need it.
        max_length: tokens to which a text is padded or cut; otherwise 64, or fewer if the model has fewer
            positions.

    Raises:
        FileNotFoundError: the folder lacks its config or weights.
        ValueError: weights in another format, truncated, or of another model; an option that does not fit.
    """
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
    source = str(name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        mend = "" if folder.is_dir() else "; check the hub id and the network, or give a local folder"
        said = _first_line(error).rstrip(".")
        if isinstance(error, StrictDataclassError):  # names the field in one line, its fault in the next
            said = " ".join(str(error).split())
        if "custom code" in said:
            said, mend = "it asks for code of its own", ", and no checkpoint's code is run here"
        raise ValueError(f"the config of tower {source!r} cannot be read: {said}{mend}") from error
    model = _part(_load(source, config), part, source)
    module = freeze(model)
    modality = _modality(module, source)
    for option, value, kind in (("image_size", image_size, "image"), ("seconds", seconds, "audio")):
        if value is not None and modality != kind and not (modality == "video" and kind == "image"):
            raise ValueError(f"{option}={value!r} is for {kind} towers, but {source!r} reads {modality}")
    if modality == "text":
        preprocess: Any = _text(source, module, max_length)
    elif modality == "audio":
        preprocess = _audio(source, module, seconds)
    else:
        preprocess = _image(source, module, image_size, modality)
    return Tower(module, preprocess, modality, _width(module, preprocess, modality, source))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the folder {folder} has no config.json, so it is not a tower in Hugging Face format"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(f.name for p in ("*.bin", "*.pt", "*.pth") for f in folder.glob(p))
        if other:
            raise ValueError(
                f"the folder {folder} holds {other[0]}, but weights load from safetensors only; "
                "convert them once with model.save_pretrained(folder) in an environment you trust"
            )
        raise FileNotFoundError(f"the folder {folder} has no .safetensors file with the weights")
    for file in files:
        check_safetensors(file)


def _load(source: str, config: Any) -> nn.Module:
    """The checkpoint's bare model (no task head), float32, or an error if its weights are another model's."""
    cls: Any = AutoModel
    arch = (getattr(config, "architectures", None) or [""])[0]
    if arch.endswith("Encoder"):  # only the encoder was saved, as WhisperEncoder.save_pretrained does
        home = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
        cls = getattr(import_module(home), arch, AutoModel)
    bars = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # it would push the caller's own bar off the screen
    try:
        model, info = cls.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights of tower {source!r} do not load: {_first_line(error)}") from error
    finally:
        if bars:
            progress.enable_progress_bar()
    lacking = sorted(k for k in info["missing_keys"] if not any(u in k for u in UNUSED))
    if lacking:
        raise ValueError(
            f"the weights of tower {source!r} are another model's: {len(lacking)} of {type(model).__name__} "
            f"are missing, the first {lacking[0]!r}; check config.json against the safetensors"
        )
    return model


def _part(model: Any, part: str | None, source: str) -> nn.Module:
    parts = [p for p in PARTS if isinstance(getattr(model, f"{p}_model", None), nn.Module)]
    if len(parts) > 1:
        if part is None:
            raise ValueError(
                f"tower {source!r} is a dual model: say which half with part: {' or '.join(parts)}"
            )
        if part not in parts:
            raise ValueError(unknown(f"part of tower {source!r}", part, parts))
        return getattr(model, f"{part}_model")
    if part is not None:
        raise ValueError(
            f"part={part!r} is for dual models such as CLIP, but {source!r} is one {type(model).__name__}"
        )
    if model.config.is_encoder_decoder and not type(model).__name__.endswith("Encoder"):
        return model.get_encoder()
    return model


def _modality(module: Any, source: str) -> str:
    kinds = module.input_modalities
    kind = kinds if isinstance(kinds, str) else kinds[0] if len(kinds) == 1 else None
    if kind not in MODALITIES:
        raise ValueError(
            f"tower {source!r} ({type(module).__name__}) reads {kinds}, but a tower reads one modality"
        )
    return kind


def _text(source: str, module: Any, max_length: int | None) -> TextInputs:
    limit = getattr(module.config, "max_position_embeddings", None) or sys.maxsize
    max_length = min(64, limit) if max_length is None else whole("max_length", max_length)
    if max_length > limit:
        raise ValueError(f"max_length={max_length} is more than the {limit} positions of tower {source!r}")
    return TextInputs(read_tokenizer(source), max_length)


def read_tokenizer(source: str) -> Any:
    """The tokenizer in a folder or of a hub id.

    Raises:
        ValueError: there is none that can be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} has no tokenizer that can be read: {_first_line(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up by transformers, for want of files
        raise ValueError(f"{source!r} has no tokenizer: tokenizer.json or the vocabulary is missing")
    return tokenizer


def _image(source: str, module: Any, image_size: int | None, modality: str) -> Any:
    own = getattr(module.config, "image_size", None)
    own = own[0] if isinstance(own, (list, tuple)) else own
    if image_size is not None:
        image_size = whole("image_size", image_size)
        if image_size != own and module.config.model_type not in ANY_SIZE:
            raise ValueError(
                f"image_size={image_size}, but tower {source!r} takes images of {own} pixels only"
            )
        module.config.image_size = [image_size, image_size]
    try:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError):
        size = image_size or own
        if modality == "video" or size is None:
            raise ValueError(
                f"tower {source!r} has no image processor (preprocessor_config.json) that can be read"
            ) from None
        logging.getLogger(__name__).info("%s has no image processor: ImageNet normalisation", source)
        return ImageInputs(size)
    if image_size not in (None, own):
        return ImageInputs(image_size, tuple(processor.image_mean), tuple(processor.image_std))
    return ProcessorImages(processor, video=modality == "video")


def _audio(source: str, module: Any, seconds: float | None) -> AudioInputs:
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"tower {source!r} has no feature extractor that can be read: {_first_line(error)}"
        ) from error
    if seconds is None:
        if not any(hasattr(extractor, a) for a in ("chunk_length", "max_length", "max_length_s")):
            raise ValueError(f"tower {source!r} hears clips of any length: give seconds")
        return AudioInputs(extractor)
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ValueError(f"seconds must be a number above 0, got {seconds!r}")
    if hasattr(module, "max_source_positions"):
        _cut_positions(module, seconds)
    return AudioInputs(extractor, seconds)


def _cut_positions(module: Any, seconds: float) -> None:
    """Keep the leading positions of a Whisper encoder, which otherwise insists on 30 s."""
    table = module.embed_positions.weight
    positions = whole("50 x seconds, the encoder's tokens,", seconds * 50)
    if positions > len(table):
        raise ValueError(
            f"seconds={seconds} is more than the {len(table) / 50:g} s this encoder has positions for"
        )
    module.embed_positions = nn.Embedding.from_pretrained(table[:positions].detach().clone(), freeze=True)
    module.config.max_source_positions = module.max_source_positions = positions


@torch.no_grad()
def _width(module: nn.Module, preprocess: Any, modality: str, source: str) -> int:
    """Channels of `last_hidden_state`, seen on one blank item; this also tries the preprocessing."""
    try:
        return final_tokens(module, module(**preprocess([blank(modality)]))).shape[-1]
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"tower {source!r} fails on a blank {modality} input: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
