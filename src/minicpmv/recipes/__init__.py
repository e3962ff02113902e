"""One complete YAML file per recipe, and the reader that finds them by name."""
