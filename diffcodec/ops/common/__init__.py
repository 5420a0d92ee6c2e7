"""What several families of operations share: tables of the standard, distortion measures, functions of Triton kernels."""
