"""Tiny data sets in the official layouts of the text-visual tasks."""

import json
from pathlib import Path

import pandas
from packs import flickr8k, picture, sound
from PIL import Image

from hmmoe.data.media import png, wav
from official import movie


def _jpeg(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size)).save(path)


def vqav2(folder: Path) -> Path:
    """20 images of train2014 with two questions each, 5 of val2014, 3 of test2015 without answers.

    "yes" and "red" are frequent; every image's last question also has a rare answer.
    """
    ask = {"train2014": range(1, 21), "val2014": range(101, 106), "test2015": range(201, 204)}
    for subset, images in (*ask.items(), ("test-dev2015", ask["test2015"])):
        questions, annotations = [], []
        for image in images:
            for k, (text, given, kind) in enumerate(
                (
                    ("is it red?", ["yes"] * 9 + ["no"], "yes/no"),
                    ("what color?", ["red"] * 7 + ["dark red"] * 2 + [f"rare {image}"], "other"),
                )
            ):
                number = image * 1000 + k
                questions.append({"image_id": image, "question": text, "question_id": number})
                annotations.append(
                    {
                        "question_id": number,
                        "image_id": image,
                        "question_type": text[:4],
                        "answer_type": kind,
                        "multiple_choice_answer": given[0],
                        "answers": [
                            {"answer": a, "answer_confidence": "yes", "answer_id": i}
                            for i, a in enumerate(given, 1)
                        ],
                    }
                )
            if not subset.startswith("test-"):
                _jpeg(folder / subset / f"COCO_{subset}_{image:012d}.jpg")
        file = folder / f"v2_OpenEnded_mscoco_{subset}_questions.json"
        file.write_text(json.dumps({"questions": questions}))
        if not subset.startswith("test"):
            file = folder / f"v2_mscoco_{subset}_annotations.json"
            file.write_text(json.dumps({"annotations": annotations}))
    return folder


def nlvr2(folder: Path) -> Path:
    """Two sentences about two pairs in each of the three files; training photographs in directories."""
    for split, directory in (("train", "7"), ("dev", None), ("test1", None)):
        rows = []
        for pair in range(2):
            for sentence in range(2):
                row = {
                    "identifier": f"{split}-3-{pair}-{sentence}",
                    "sentence": f"sentence {sentence}",
                    "label": "True" if pair == sentence else "False",
                }
                rows.append(row if directory is None else row | {"directory": directory})
            for side in range(2):
                below = Path("images", split, directory or "")
                _jpeg(folder / below / f"{split}-3-{pair}-img{side}.png")
        (folder / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def nlvr_v1(folder: Path) -> Path:
    """Ten groups of dev and two of test, four examples each in two of their six permutations."""
    drawing = png(picture(400)[:100])
    for split, groups in (("dev", range(10)), ("test", range(50, 52))):
        pandas.DataFrame(
            [
                {
                    "identifier": f"{n}-{m}",
                    "permutation": k,
                    "sentence": f"sentence {n % 10 if n < 51 else 'new'}",
                    "label": m < 2,
                    "image": drawing,
                }
                for n in groups
                for m in range(4)
                for k in range(2)
            ]
        ).to_parquet(folder / f"{split}.parquet")
    return folder


def msrvtt(folder: Path) -> Path:
    """Ten videos in VALOR's layout: pictures, sound (not of video8), id lists, captions and questions."""
    names = [f"video{i}" for i in range(10)]
    for name in names:
        for i in range(1, 6):
            _jpeg(folder / "frames_fps4" / name / f"img_{i:04d}.jpg")
        if name != "video8":
            file = folder / "audio_22050hz" / f"{name}.wav"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(wav(sound(0.5, 16000), 16000))
    asked = [{"question": "what is it?", "answer": "a cat."}, {"question": "who sings?", "answer": "man"}]
    test = names[7:]
    content = {
        "txt_mapper": {name: [f"{name} plays", f"{name} sings"] for name in names},
        "txt_mapper_1kAsplit_test": {name: [f"only {name}"] for name in test},
        "1KAsplit_train_id": names[:7],
        "1KAsplit_test_id": test,
        "standardsplit_train_id": names[:7],
        "standardsplit_test_id": test,
        "txt_mapper_vqa": dict.fromkeys(names, asked),
    }
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def msvd(folder: Path) -> Path:
    """Six videos in the data set's own layout: lists, descriptions, videos; MSVD-QA's files beside them."""
    names = [f"clip-{i}_0_5" for i in range(6)]
    for i, name in enumerate(names):
        movie(folder / "YouTubeClips" / f"{name}.avi", [40 * i, 40 * i + 20])
    for split, chosen in (("train", names[:3]), ("val", names[3:4]), ("test", names[4:])):
        (folder / f"{split}_list.txt").write_text("\n".join(chosen))
        asked = [
            {
                "answer": ["cat", "dog", "cat"][i],
                "id": i,
                "question": "what runs?",
                "video_id": 1 + names.index(name),
            }
            for i, name in enumerate(chosen)
        ]
        (folder / f"{split}_qa.json").write_text(json.dumps(asked))
    lines = [f"{name} {text}" for name in names for text in ("a cat runs", "it is fast", "grey")]
    (folder / "AllVideoDescriptions.txt").write_text("\n".join(["# about", *lines]))
    mapping = [f"{name} vid{i}" for i, name in enumerate(names, 1)]
    (folder / "youtube_mapping.txt").write_text("\n".join(mapping))
    return folder


SETS = {
    "vqav2": vqav2,
    "nlvr2": nlvr2,
    "nlvr_v1": nlvr_v1,
    "flickr8k_pairs": flickr8k,
    "msrvtt_retrieval": msrvtt,
    "msvd_retrieval": msvd,
    "msrvtt_qa": msrvtt,
    "msvd_qa": msvd,
}
