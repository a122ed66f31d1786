"""Randomized smoothing: certified l2 radii of `x -> argmax_c P(f(x + N(0, sigma^2)) = c)`."""
