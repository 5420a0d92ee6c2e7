"""The loop filter."""
