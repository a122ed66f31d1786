"""The configs that ship with jax_robust, one file per family of experiments."""
