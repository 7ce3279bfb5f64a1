"""The built-in model's world: composed images with captions, and how the model and its judge are trained on them."""
