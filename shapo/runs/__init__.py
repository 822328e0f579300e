"""Runs and studies: naming, training, storing, shipping and verifying them. Nothing here knows an algorithm."""
