"""English for numbers of things."""


def plural(count: int, word: str) -> str:
    """Return a word as it is for so many."""
    return word if count == 1 else f"{word}s"


def counted(count: int, word: str) -> str:
    """Return so many of a word: 1 task, 2,000 tasks."""
    return f"{count:,} {plural(count, word)}"
