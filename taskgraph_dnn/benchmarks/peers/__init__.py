"""Other libraries, at their best: what layers and whole networks are measured against."""
