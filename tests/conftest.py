"""Settings of all tests."""

from hypothesis import settings

# The same examples in every run: what fails once fails again, here and elsewhere.
settings.register_profile("studio", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("studio")
