"""`hmmoe predict`: a finished run asked about the user's own inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmmoe.engine.run import RunDir
from hmmoe.errors import unknown


def predict(path: str | Path, inputs: Sequence[str]) -> dict[str, Any]:
    """The task's words for one row made of `stream=value` inputs.

    Args:
        path: folder of a finished run.
        inputs: `image=photo.png`, `audio=sound.wav`, `text=what colour?`; a stream left out is missing.

    Raises:
        ValueError: not of that form, an unknown stream, or none at all.
        FileNotFoundError: a file that is not there.
    """
    run = RunDir(path)
    run.finished_metrics()
    pairs = {}
    for given in inputs:
        stream, equals, value = given.partition("=")
        if not equals:
            raise ValueError(f"input {given!r} is not of the form stream=value, e.g. image=photo.png")
        pairs[stream] = value
    import torch

    from hmmoe.engine.assemble import assemble

    parts = assemble(run.recipe(), saved=run.path)
    row: dict[str, Any] = {"index": 0, "label": None, **dict.fromkeys(parts.task.streams)}
    for stream, value in pairs.items():
        if stream not in parts.task.streams:
            raise ValueError(unknown("stream", stream, parts.task.streams))
        row[stream] = read_input(value, parts.towers[stream].modality)
    batch = parts.collator([row])
    batch.pop("index")
    with torch.no_grad():
        logits = parts.model.eval()(**batch).logits
    return parts.task.show(row, first(logits))


def read_input(value: str, modality: str) -> Any:
    """A raw item of a modality from what stands on the command line."""
    if modality == "text":
        return value
    from hmmoe.data import decode_audio, decode_image

    if not Path(value).is_file():
        raise FileNotFoundError(f"there is no file {value!r}")
    return {"image": decode_image, "audio": decode_audio}[modality](value)


def first(logits: Any, i: int = 0) -> Any:
    """Row `i` of logits that are a tensor or a mapping of tensors."""
    return {k: v[i] for k, v in logits.items()} if isinstance(logits, dict) else logits[i]
