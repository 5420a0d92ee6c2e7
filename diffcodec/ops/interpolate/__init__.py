"""Inter prediction: quarter-pel planes and what vectors fetch from them."""
