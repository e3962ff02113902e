"""Web pages as pictures whose every printed line is known, by way of a real Chromium."""
