"""Pixels and messages to model inputs.

Small pure functions first (`slicing`, `sampling`, `packing`, `patches`, `chat_template`), then the three transformers
processors that put them together (`image_processor`, `video_processor`, `processor`), and `budget`, which tells what
an input will cost before anything is decoded. The model never imports this package: both meet in the tensors that
`processor.MiniCPMVProcessor` returns.
"""
