"""Tasks, one file each: the official layout, sampling, head, loss and metric of a data set."""

from hmmoe.tasks.av_digits import AVDigits
from hmmoe.tasks.ave import AVE
from hmmoe.tasks.ave_segments import AVEMini
from hmmoe.tasks.avqa import AVQA
from hmmoe.tasks.avs import MS3, S4
from hmmoe.tasks.avvp import AVVP
from hmmoe.tasks.base import Options, Rows, Task
from hmmoe.tasks.easy_vqa import EasyVQA
from hmmoe.tasks.flickr8k import Flickr8k
from hmmoe.tasks.flickr8k_pairs import Flickr8kPairs
from hmmoe.tasks.grid_words import GridWords
from hmmoe.tasks.nlvr1 import NLVR1
from hmmoe.tasks.nlvr2_task import NLVR2
from hmmoe.tasks.video_qa import MSRVTTQA, MSVDQA
from hmmoe.tasks.video_retrieval import MSRVTTRetrieval, MSVDRetrieval
from hmmoe.tasks.vqav2_task import VQAv2
from hmmoe.tasks.writing import Flickr8kCaptions, MSRVTTCaptions, MSVDCaptions

__all__ = ["TASKS", "Options", "Rows", "Task"]

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        EasyVQA,
        AVDigits,
        AVE,
        AVVP,
        AVEMini,
        S4,
        MS3,
        AVQA,
        GridWords,
        Flickr8k,
        Flickr8kPairs,
        VQAv2,
        NLVR2,
        NLVR1,
        MSRVTTRetrieval,
        MSVDRetrieval,
        MSRVTTQA,
        MSVDQA,
        Flickr8kCaptions,
        MSRVTTCaptions,
        MSVDCaptions,
    )
}
