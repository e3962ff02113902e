"""Files, URLs and bytes in; upright RGB pixels out. Nothing here knows about patches, tokens or torch.

fetch      the policy for what may be read, and the bytes behind a source
kinds      picture, clip or document: told by content, never by name
image      one picture, upright, RGB
video      exact frames of a clip at exact times, streamed
document   pages of a PDF
"""
