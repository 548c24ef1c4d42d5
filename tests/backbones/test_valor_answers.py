"""VALOR that answers, by recipe: the question is a prompt, the answer is written word by word."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks"))
from systems import some_steps, words_folder
from text_visual import msrvtt
from valor_reference import Reference, official_state, small_config

from hmmoe.backbones.valor import ValorModel, captions
from hmmoe.backbones.valor.answers import ValorAnswers
from hmmoe.backbones.valor.processing import ValorProcessor
from hmmoe.engine.assemble import assemble
from hmmoe.engine.evaluate import evaluate, write_result
from hmmoe.engine.predict import predict
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train
from hmmoe.tasks.video_qa import MSRVTTQA

PAD, CLS, SEP, MASK = 0, 2, 3, 4
TEXT = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat man what is it who sings answer the question"
WORDS = TEXT.split()
IDS = {word: i for i, word in enumerate(WORDS)}


def ids(*texts):
    """Word numbers of texts, each with [CLS] and [SEP]."""
    return [[CLS, *(IDS[word] for word in text.split()), SEP] for text in texts]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return words_folder(tmp_path_factory, WORDS)


@pytest.fixture
def recipe(words, tmp_path):
    def make(method="hmmoe", **steps):
        # Frozen random words must differ enough for a head to tell them apart.
        sizes = {k: v for k, v in small_config().to_dict().items() if k.endswith(("_config", "_dim"))}
        sizes["text_config"]["initializer_range"] = 0.2
        tree = {
            "name": "answers",
            "task": {"name": "msrvtt_qa", "root": str(tmp_path), "frames": 2, "answer": "written"},
            "model": {
                "name": "valor",
                "tokenizer": words,
                "config": sizes | {"initializer_range": 0.2},
            },
            "method": {"name": method, **({} if method == "frozen" else {"rank": 4})},
            "train": {"batch_size": 6, "evaluations": 1, "learning_rate": 1e-2, **steps},
        }
        return Recipe.from_dict(tree)

    msrvtt(tmp_path)
    return make


def batch(parts, split, rows=range(4)):
    data = parts.task.dataset(split)
    return parts.collator([data[i] for i in rows])


@pytest.fixture(scope="module")
def tiny(words):
    """A whole VALOR in float64 as answers are taught on it, its independent twin, and a batch of two."""
    config = small_config()
    state = official_state(config)
    valor = ValorModel.from_official(state, config).double()
    tokenizer = BertTokenizer.from_pretrained(words)
    processor = ValorProcessor.for_config(config, tokenizer)
    roles = {"video": "video", "audio": "audio", "text": "text"}
    prompt, folded = processor.task_words("qa"), ("video", "audio")
    model = ValorAnswers(valor, roles, tokenizer, ["a cat", "man"], folded=folded, prompt=prompt).double()
    g = torch.Generator().manual_seed(1)
    inputs = {
        "video": {"pixel_values": torch.randn(2, 2, 3, 32, 32, generator=g).double()},
        "audio": {"audio_values": torch.randn(2, 1, 32, 48, generator=g).double()},
        "text": dict(processor(text=["What is it?", "who sings"])),
        "present": {"audio": torch.tensor([True, False])},
    }
    return model, Reference(state, config), processor, inputs


def test_the_loss_is_that_of_the_answers_words_behind_question_and_media(tiny, monkeypatch):
    model, twin, _, inputs = tiny
    labels = torch.tensor([[1, 0], [0, 1]])
    hidden = [[CLS, MASK, MASK], [CLS, MASK, IDS["cat"], MASK]]  # [CLS] man [SEP], [CLS] a cat [SEP]
    targets = [[None, IDS["man"], SEP], [None, IDS["a"], None, SEP]]

    def mask_words(words, *, share, mask_id, vocab_size, keep_ids):
        assert words.tolist() == [[*ids("man")[0], PAD], *ids("a cat")]
        assert (share, mask_id, vocab_size, keep_ids) == (0.99, MASK, 40, (CLS, PAD))
        read = torch.tensor([[*hidden[0], PAD], hidden[1]])
        told = [[-100 if t is None else t for t in row] for row in targets]
        return read, torch.tensor([[*told[0], -100], told[1]])

    monkeypatch.setattr(captions, "mask_words", mask_words)
    loss = model.train()(labels=labels, **inputs).loss
    prompts = ids("answer the question what is it", "answer the question who sings")
    losses = []
    for i in range(2):
        frames, clips = inputs["video"]["pixel_values"][i], inputs["audio"]["audio_values"][i]
        memory = [twin.memory(twin.video(frames), "video")]
        if inputs["present"]["audio"][i]:
            memory.append(twin.memory(torch.stack([twin.audio(clip) for clip in clips]), "audio"))
        states = twin.text(hidden[i], prompts[i], causal=True, memory=torch.cat(memory))
        for x, target in zip(states, targets[i], strict=True):
            if target is not None:
                y = twin.linear(x, "cls.dense")
                y = twin.norm(y * 0.5 * (1 + torch.erf(y / 2**0.5)), "cls.layernorm", 1e-12)
                losses.append(-twin.linear(y, "cls.decoder").log_softmax(0)[target])
    assert len(losses) == 4
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-8, atol=1e-8)


def test_else_it_writes_what_the_model_itself_would_after_the_question(tiny):
    model, _, processor, inputs = tiny
    prompt = processor.prompt("qa", questions=["what is it", "who sings"])
    want = model.towers["valor"].generate(
        inputs["video"]["pixel_values"],
        inputs["audio"]["audio_values"],
        inputs["present"]["audio"],
        **prompt,
        start_id=CLS,
        end_id=SEP,
        mask_id=MASK,
        num_beams=1,
    )
    output = model.eval()(labels=torch.tensor([[1, 0], [0, 1]]), **inputs)
    assert output.loss == 0
    assert output.logits.shape == (2, 30)
    assert torch.equal(output.logits[:, : want.shape[1]], want)
    assert not output.logits[:, want.shape[1] :].any()
    assert torch.equal(model.train()(**inputs).logits, output.logits)  # nothing to learn from


def test_without_a_question_it_still_writes(tiny):
    model, _, _, inputs = tiny
    rest = {k: v for k, v in inputs.items() if k != "text"}
    assert model.eval()(**rest).logits.shape == (2, 30)


@pytest.mark.parametrize("method", ["hmmoe", "uniadapter", "lora", "adapter_parallel", "frozen"])
def test_answers_are_learned_and_everything_that_learns_has_a_gradient(method, recipe):
    parts = assemble(recipe(method, max_steps=1))
    losses, idle = some_steps(parts.model.train(), batch(parts, "train"))
    assert losses[-1] < losses[0]
    assert idle == set()


def test_a_run_learns_to_answer_in_words_in_scores_results_and_prediction(recipe, tmp_path):
    asked = [{"question": "What is it?", "answer": "Cat!"}, {"question": "who sings", "answer": "man"}]
    options = recipe(max_steps=80)
    sounds = tmp_path / "audio_22050hz"
    shutil.copy(sounds / "video7.wav", sounds / "video8.wav")  # silence, which no training video shows
    questions = {f"video{i}": asked for i in range(10)}
    (tmp_path / "txt_mapper_vqa.json").write_text(json.dumps(questions))
    done = train(options, tmp_path / "run")
    assert done["test"]["accuracy"] == 100
    found = evaluate(tmp_path / "run")
    assert found.metrics["accuracy"] == 100
    (file,) = write_result(found, "test", tmp_path / "result")
    assert json.loads(file.read_text())[0] == {
        "video_id": "video7",
        "question": "What is it?",
        "answer": "cat",
    }
    video = tmp_path / "frames_fps4" / "video7"
    assert (
        predict(tmp_path / "run", [f"video={video}", f"audio={sounds / 'video7.wav'}", "text=Who sings?"])
        == "man"
    )
    assert "Cat!" in (tmp_path / "run" / "report.html").read_text()


def test_a_head_on_streams_cannot_write(tmp_path):
    task = MSRVTTQA(tmp_path, answer="written")
    with pytest.raises(ValueError, match=r"answer: written needs a model that writes, such as model: \{name"):
        task.head({"video": 4, "text": 4})
