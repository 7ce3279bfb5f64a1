"""What several tests do: run a generator of steps to its end, and find what is on the page."""


def finish(steps):
    """What a generator returns, and all that it yielded on the way."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def choose(page, dropdown, option):
    """Choose an option of a dropdown on the page."""
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def field(page, elem_id):
    """The text field of a component on the page."""
    return page.locator(f"#{elem_id} :is(input[type=text], input:not([type]), textarea)").first
