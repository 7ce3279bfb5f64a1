"""The numbers of mass concept erasure: torch and the standard library; no module here knows a model."""
