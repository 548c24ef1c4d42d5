"""Official data sets, one file each: which files are expected where, and what they say of which video."""

from hmmoe.data.sets.ave import AVESet
from hmmoe.data.sets.avqa import AVQASet
from hmmoe.data.sets.avs import AVSBench, MS3Set, S4Set
from hmmoe.data.sets.base import Clip, DataSet
from hmmoe.data.sets.llp import LLPSet
from hmmoe.data.sets.video_text import MSRVTTSet, MSVDSet

__all__ = ["SETS", "Clip", "DataSet"]

SETS: dict[str, DataSet] = {
    data.name: data
    for data in (AVESet(), LLPSet(), AVSBench(), S4Set(), MS3Set(), AVQASet(), MSRVTTSet(), MSVDSet())
}
