"""What the tests of systems by recipe (VLMo, VALOR) share: a folder of words and a few steps of training."""

import torch
from transformers import BertTokenizer


def words_folder(tmp_path_factory, words):
    """The path of a saved tokenizer of these words."""
    folder = tmp_path_factory.mktemp("words")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


def some_steps(model, inputs, count=4, rate=2e-3, seed=None):
    """Losses of steps on one batch, and what should learn but had no gradient in the last.

    With a seed, each step draws the same numbers.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(count):
        if seed is not None:
            torch.manual_seed(seed)
        loss = model(**inputs).loss
        loss.backward()
        idle = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, idle
