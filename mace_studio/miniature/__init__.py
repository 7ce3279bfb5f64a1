"""The built-in model's world: composed pictures with captions, and how the model and its judge are trained on them."""
