"""Settings of all tests."""

import os

from hypothesis import settings

# No test asks the network, whatever it asks of the libraries; they read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# As in mace_studio.runtime.studio: tests must not crawl beside other work on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run: what fails once fails again, here and elsewhere.
settings.register_profile("studio", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("studio")
