"""`hmmoe predict`: a finished run asked about the user's own inputs."""

from collections.abc import Sequence
from pathlib import Path

from hmmoe.engine.run import RunDir


def predict(path: str | Path, inputs: Sequence[str]) -> str:
    """The task's words for one row made of `stream=value` inputs.

    Args:
        path: folder of a finished run.
        inputs: `image=photo.png`, `video=clip.mp4`, `audio=sound.wav`, `text=what colour?`, one for every
            stream.

    Raises:
        ValueError: not of that form, an unknown, a missing or a repeated stream, or a file that does not
            decode.
    """
    run = RunDir(path)
    run.finished_metrics()
    pairs = {}
    for given in inputs:
        stream, equals, value = given.partition("=")
        if not equals:
            raise ValueError(f"input {given!r} is not of the form stream=value, e.g. image=photo.png")
        if stream in pairs:
            raise ValueError(f"stream {stream!r} is given twice; give one {stream}=…")
        pairs[stream] = value
    import torch

    from hmmoe.engine.assemble import assemble
    from hmmoe.engine.evaluate import row_of

    parts = assemble(run.recipe(), saved=run.path)
    row = parts.task.from_files(**pairs)
    for stream in parts.task.streams:
        if stream not in row:
            raise ValueError(f"the task needs stream {stream!r} too; add {stream}=…")
    batch = parts.collator([row])
    with torch.no_grad():
        logits = parts.model.eval()(**batch).logits
    return parts.task.show(row, row_of(logits, 0))["prediction"]
