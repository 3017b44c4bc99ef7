"""What is kept of a run of benchmarks, and what is made of it: comparisons, a page, plots."""
