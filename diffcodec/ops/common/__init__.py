"""Shared by several families of operations: tables of the standard, distortion measures, functions of Triton kernels."""
