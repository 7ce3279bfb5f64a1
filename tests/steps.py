"""Running a generator of steps to its end."""


def finish(steps):
    """What a generator returns, and all that it yielded on the way."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen
