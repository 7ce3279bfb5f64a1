"""The page. The only code that imports gradio."""

import os

# Gradio reads these when it is imported. Nothing about a visit leaves the machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
