"""Small worlds we can render with exact ground truth: printed lines, strips of text, scenes, clips, and plain text.

    words -> glyphs -> lines | strips          (reading; every character's box is known)
    scenes | clips -> question, answer         (seeing; the answer is decided before the pixels are drawn)
    text                                       (the same questions without pictures, for the language model alone)

Everything takes a `numpy.random.Generator` and is a pure function of it: the same seed gives the same bytes on the
same fonts and library versions. Nothing here knows about torch, tokens or prompts with special tokens.
"""
