"""JPEG, whole."""
