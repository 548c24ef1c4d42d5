"""Retrieval of videos by captions and of captions by videos: MSRVTT (1k-A and standard) and MSVD.

Rows, losses and scores are those of `hmmoe.tasks.pairs`. MSRVTT 1k-A has one caption per test video; on MSVD
all captions of the 670 test videos ask. A caption at a time is drawn by VALOR's recipes for every video and
epoch; here an epoch goes through all captions, so 20 of its epochs over MSRVTT are one of ours.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from hmmoe.data.sets.video_text import MSRVTTSet, MSVDSet
from hmmoe.options import about
from hmmoe.tasks.pairs import Pairs, PairsOptions
from hmmoe.tasks.videos import (
    Captioned,
    CaptionedOptions,
    VideoTask,
    captioned_videos,
)


@dataclass
class RetrievalOptions(PairsOptions, CaptionedOptions):
    """Options of both."""


@dataclass
class MSRVTTRetrievalOptions(RetrievalOptions):
    protocol: str = field(default="1ka", metadata=about("of the splits", choices=tuple(MSRVTTSet.videos_in)))


class VideoRetrieval(VideoTask, Pairs):
    """Frames and, where the data set has it, sound of a video with its captions."""

    options_type = RetrievalOptions

    @property
    def protocol(self) -> str:
        return "standard"

    @cached_property
    def captioned(self) -> Captioned:
        return captioned_videos(self.data, self.folder(), self.protocol, self.options.select_on)


class MSRVTTRetrieval(VideoRetrieval):
    """See the module."""

    name = "msrvtt_retrieval"
    streams: ClassVar = {"video": "image", "audio": "audio", "text": "text"}
    folded = ("video", "audio")
    groups: ClassVar = [["video", "audio"], ["text"]]
    data = MSRVTTSet()
    options_type = MSRVTTRetrievalOptions

    @property
    def protocol(self) -> str:
        return self.options.protocol


class MSVDRetrieval(VideoRetrieval):
    """See the module."""

    name = "msvd_retrieval"
    streams: ClassVar = {"video": "image", "text": "text"}
    folded = ("video",)
    groups: ClassVar = [["video"], ["text"]]
    data = MSVDSet()
