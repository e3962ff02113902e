"""Towers: from blank weights to a language model that reads and a vision tower that sees.

The released model starts from Qwen3 and SigLIP2. A nano model has no such parents, so it learns here what they would
have known: to repeat and to answer in text, to name letters and colours in patches, and to join the two.
"""
