"""Many requests at once: they join and leave between steps, share memory, and get the answers they get alone."""
