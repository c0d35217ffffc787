"""Experiments on an object store: a local folder that does the work, and a mirror that carries it to a URL."""
