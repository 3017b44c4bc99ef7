"""The Graph Challenge, whole: its networks and images found or made, run in several ways, verified, and compared."""
