"""What is computed and read in benchmarks: layers, networks and files, drawn from seeds."""
