"""The model over HTTP: an OpenAI-compatible API in front of one engine."""
