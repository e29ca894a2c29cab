"""Modalities beyond the eight of OneLLM, each by one spec; docs/new_modality.md walks through one.

``scan.py`` is imported when its name is first read (``modality.SHIPPED``).
"""
