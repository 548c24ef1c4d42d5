"""From a recipe to a trained, saved, compared run: transformers' Trainer does the loop, this package the rest."""
