"""From prompts to ids and states: tokenizers, T5, the classes of ImageNet."""
