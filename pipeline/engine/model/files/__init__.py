"""What a model's folder says of it, read and checked before torch is loaded."""
