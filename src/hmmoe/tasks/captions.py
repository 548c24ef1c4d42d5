"""Captions: how much of what people wrote does a generated sentence say?

    BLEU-4    geometric mean of the clipped precisions of 1- to 4-grams over the whole set, times a brevity
              penalty against the closest reference length
    METEOR    1.5: alignment of words, stems, synonyms and paraphrases; needs Java
    ROUGE-L   F (beta 1.2) of the longest common subsequence, with the best precision and the best recall
              over the references; mean over captions
    CIDEr     (-D) cosine of clipped tf-idf 1- to 4-grams, with document frequencies from the references of
              this set (a set of one scores 0) and a Gaussian penalty (sigma 6) for another length; mean over
              references, n and captions, times 10

pycocoevalcap computes them. Its tokenizer (Penn Treebank, lower case, punctuation dropped) is Java too:
without Java, METEOR is left out, the other three are computed on a close imitation of the tokens, and a
warning says so.
"""

import contextlib
import io
import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

Captions = dict[str, list[str]]

CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
WORD = re.compile(r"n't|'\w+|\w+(?:[.,/&-]+\w+)*|[%$#@&]")


def caption_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Scores of generated captions against what people wrote.

    Args:
        predictions: one caption for each picture or video, by its id; it may be empty.
        references: the human captions by the same ids: all of the test set, since CIDEr weighs words by it.

    Returns:
        `{"bleu4", "meteor", "rouge_l", "cider"}`: the first three in 0..1, CIDEr in 0..10; papers print all
        of them times 100. Without Java, "meteor" is left out.

    Raises:
        ValueError: the ids differ, or an id has no reference.
        ImportError: pycocoevalcap is not installed.
    """
    _check(predictions, references)
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ImportError(
            "caption scores need pycocoevalcap, install it with: pip install 'hmmoe[captions]'"
        ) from error

    java = _has_java()
    if not java:
        log.warning(
            "Java does not run here: METEOR is left out, and BLEU, ROUGE and CIDEr use an imitation of the "
            "Penn Treebank tokenizer; install a Java runtime for figures to publish"
        )
    tokens = _penn_treebank if java else _imitation
    said = tokens({name: [caption] for name, caption in predictions.items()})
    meant = tokens({name: list(references[name]) for name in predictions})
    with contextlib.redirect_stdout(io.StringIO()):  # its scorers print their corpus lengths
        scores = {
            "bleu4": Bleu(4).compute_score(meant, said)[0][3],
            "rouge_l": Rouge().compute_score(meant, said)[0],
            "cider": Cider().compute_score(meant, said)[0],
        }
    if java:
        scores["meteor"] = _meteor(meant, said)
    return {name: float(score) for name, score in scores.items()}


def _has_java() -> bool:
    """Whether `java` runs; being on the PATH is not enough, macOS has a stub there without a runtime."""
    if shutil.which("java") is None:
        return False
    return subprocess.run(["java", "-version"], capture_output=True).returncode == 0


def _check(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not predictions:
        raise ValueError("predictions is empty, give at least one caption")
    if odd := set(predictions) ^ set(references):
        name = min(odd, key=str)
        raise ValueError(
            f"id {name!r} is only in {'predictions' if name in predictions else 'references'}, "
            f"predictions and references must have the same ids ({len(odd)} differ)"
        )
    for name, captions in references.items():
        if isinstance(captions, str) or not len(captions):
            raise ValueError(
                f"references[{name!r}] is {captions!r}, it should be a list of at least one caption"
            )


def _penn_treebank(captions: Captions) -> Captions:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # The tokenizer works line by line, so that any line break inside a caption would shift all later ones.
    lines = {
        name: [{"caption": " ".join(text.split())} for text in texts] for name, texts in captions.items()
    }
    return PTBTokenizer().tokenize(lines)


def _imitation(captions: Captions) -> Captions:
    def tokens(text: str) -> str:
        return " ".join(WORD.findall(CLITIC.sub(r" \1", text.lower())))

    return {name: [tokens(text) for text in texts] for name, texts in captions.items()}


def _meteor(meant: Captions, said: Captions) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor().compute_score(meant, said)[0]
