"""From a recipe to a trained, saved, compared run: the loop is transformers' Trainer."""
