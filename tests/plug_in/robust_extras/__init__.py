"""A plug-in as a stranger writes it: each module adds one thing to a table of jax_robust."""
