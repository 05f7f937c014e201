"""Logits to target law, the couplings and their table, and the noise that drives them. Imports torch alone."""
