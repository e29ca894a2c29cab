"""What a machine makes of a model: ``onellm bench`` and what the benchmarks measure with."""
