"""Measurements behind the project's figures: ``python -m benchmarks.NAME --help``. Results are JSON in ``benchmarks/results``."""
