import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
# What these tests assert are values; the compiler's own optimisations take longer than what they compile runs.
jax.config.update("jax_disable_most_optimizations", True)
