"""The unified corruption paradigm: pages with damaged regions, whose own text is what has to be written."""
