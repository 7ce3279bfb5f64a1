"""Settings of all tests."""

import os

from hypothesis import settings

# No test asks the network, whatever it asks of the libraries; they read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples in every run: what fails once fails again, here and elsewhere.
settings.register_profile("studio", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("studio")
