"""From files to batches: decoding, collation, and the map-style and streaming forms of a data set."""

from hmmoe.data.collate import Collator
from hmmoe.data.media import MediaError, decode_audio, decode_image, decode_video
from hmmoe.data.prepared import Prepared
from hmmoe.data.stream import Stream, StreamLoader

__all__ = [
    "Collator",
    "MediaError",
    "Prepared",
    "Stream",
    "StreamLoader",
    "decode_audio",
    "decode_image",
    "decode_video",
]
