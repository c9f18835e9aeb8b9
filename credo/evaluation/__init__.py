"""A model on benchmarks: problems put to it, responses judged and kept, numbers with intervals."""
