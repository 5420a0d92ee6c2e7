"""REVMark (Zhang et al., ACM MM 2023) built from diffcodec parts: train, evaluate, embed, extract.

This package is a place kept: the watermarking system comes with a later release.
"""
