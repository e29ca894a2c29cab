"""Running a model: loading by name, encoding a window once, answering about it many times."""
