"""The model: the only code that imports diffusers, transformers and peft."""
