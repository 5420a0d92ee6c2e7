"""Block motion search in the pixel domain."""
