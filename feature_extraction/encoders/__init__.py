"""Image encoders of open_clip, timm and transformers behind one interface."""
